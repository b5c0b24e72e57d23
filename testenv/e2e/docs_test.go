package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/hostinfo"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

var update = flag.Bool("update", false, "write the outputs into the documents")

// An output block is a comment that names a command, and what it printed.
var outputBlock = regexp.MustCompile("(?s)<!-- output: ([^\n]*) -->\n(?:```\n.*?\n```\n)?")

// fillOutputs puts the outputs of the named commands into a document.
func fillOutputs(t *testing.T, text string, run func(command string) string) string {
	t.Helper()
	return outputBlock.ReplaceAllStringFunc(text, func(block string) string {
		command := outputBlock.FindStringSubmatch(block)[1]
		return "<!-- output: " + command + " -->\n```\n" + strings.TrimRight(run(command), "\n") + "\n```\n"
	})
}

// What differs from run to run: times, counts, addresses that the kernel makes
// up, the width of the columns that hold them; and whole lines: which packets
// came, what this machine is.
var (
	varyingTime  = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`)
	varyingSpan  = regexp.MustCompile(`\b(\d+(\.\d+)?(h|m|ms|µs|s))+\b`)
	varyingCount = regexp.MustCompile(`\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b|\b\d+\b`)
	varyingSpace = regexp.MustCompile(`[ \t]+`)
	varyingLine  = regexp.MustCompile(`^(packets |IPVS +(no|yes)|bpffs |lvx |lvx_|\d\d:\d\d:\d\d\.|(TCP|UDP) +\d\d:\d\d )`)
)

// constant lists the lines of a document that are the same in every run, each
// once and in the order of the alphabet.
func constant(text string) []string {
	var lines []string
	for _, line := range strings.Split(text, "\n") {
		if varyingLine.MatchString(line) {
			continue
		}
		line = varyingTime.ReplaceAllString(line, "TIME")
		line = varyingSpan.ReplaceAllString(line, "SPAN")
		line = varyingCount.ReplaceAllString(line, "N")
		lines = append(lines, strings.TrimSpace(varyingSpace.ReplaceAllString(line, " ")))
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

// The documents' outputs are what the commands print.
func TestTroubleshooting(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 2, Reals: 3})
	run(t, r.Cluster.Host("d1"), strings.Fields("iptables -t mangle -A PREROUTING -d "+rig.VIP+" -p tcp --dport 80 -j MARK --set-mark 10")...)
	for _, name := range []string{"d1", "d2"} {
		must(t, r.Direct(t.Context(), name, documentedBody(pairPriority[name])))
	}
	hasRole(t, r, "d1", "MASTER")
	hasRole(t, r, "d2", "BACKUP")
	eventually(t, func() error {
		if out, err := r.LVX(t.Context(), "d1", "status"); err != nil || !strings.Contains(out, "warning: firewall") {
			return fmt.Errorf("no warning of the rule: %v\n%s", err, out)
		}
		return nil
	})
	realsUp(t, r, "r1", "r2", "r3")
	run(t, r.Cluster.Host("r2"), lvx, "real", "down", "--vip", rig.VIP, "--state", r.Cluster.Host("r2").Dir()+"/real.json")
	down(t, r, "172.25.0.13", "is the VIP on lo?")
	held, err := r.Hold("r1")
	must(t, err)
	defer held.Close()

	for _, page := range []string{"troubleshooting.md", "operations.md"} {
		path := filepath.Join("../../docs", page)
		text, err := os.ReadFile(path)
		must(t, err)
		filled := fillOutputs(t, string(text), func(command string) string { return documented(t, r, command) })
		if *update {
			must(t, os.WriteFile(path, []byte(filled), 0o644))
		} else if diff := cmp.Diff(constant(string(text)), constant(filled)); diff != "" {
			t.Errorf("docs/%s is not what the commands print (-document +now; go test ./testenv/e2e -run %s -update):\n%s", page, t.Name(), diff)
		}
	}
}

// documentedBody is the configuration of a director in the documents.
func documentedBody(priority int) string {
	const check = "check: {type: tcp, interval: 200ms, timeout: 2s, fall: 1, rise: 1}"
	return strings.Replace(pairBody(priority, check, "172.25.0.12", "172.25.0.13", "172.25.0.15"), "scheduler: mh", "scheduler: rr", 1)
}

// documentedEdit is what an operator has done to that file before asking what a
// reload would change.
var documentedEdit = strings.NewReplacer(
	"      - {address: 172.25.0.12}\n", "",
	"{address: 172.25.0.15}", "{address: 172.25.0.15, weight: 2}",
	"scheduler: rr", "scheduler: wrr\n    deny: [198.51.100.0/24]",
)

// documentedRelease is the kernel's in the documents, on whatever machine the
// commands ran.
const documentedRelease = "6.12.0"

// documented is the prompt, a command of lvx, and what it printed on d1.
func documented(t *testing.T, r *rig.Rig, command string) string {
	t.Helper()
	d1 := r.Cluster.Host("d1")
	args := strings.Fields(command)
	if args[0] == "bpftool" {
		out := run(t, d1, strings.Fields(strings.ReplaceAll(command, "/sys/fs/bpf/lvx", d1.PinDir()))...)
		return fmt.Sprintf("# %s\n%s", command, strings.TrimSpace(out))
	}
	switch args[0] {
	case "check", "doctor":
		args = append(args, "-c", d1.Dir()+"/lvx.yaml")
	case "diff":
		body := documentedBody(pairPriority["d1"])
		_, err := r.Config("d1", documentedEdit.Replace(body))
		must(t, err)
		defer func() {
			_, err := r.Config("d1", body)
			must(t, err)
		}()
	}
	if args[0] != "check" {
		args = append(args, "--socket", r.Socket("d1"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if args[0] == "trace" { // there must be something to see
		go func() {
			for range time.Tick(50 * time.Millisecond) {
				if _, _ = r.Get("http://"+rig.VIP, time.Second); ctx.Err() != nil {
					return
				}
			}
		}()
	}
	out, err := d1.Run(ctx, append([]string{lvx}, args...)...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", command, err)
	}
	out = strings.ReplaceAll(out, d1.Dir()+"/lvx.yaml", "/etc/lvx/lvx.yaml")
	out = strings.ReplaceAll(out, hostinfo.Examine(nil).Kernel, documentedRelease)
	return fmt.Sprintf("# lvx %s\n%s", command, bytes.TrimSpace([]byte(out)))
}

// onlyLines keeps the lines of metrics with these names, of packets only those
// that count some.
func onlyLines(text string, names ...string) string {
	var kept []string
	for _, line := range strings.Split(text, "\n") {
		for _, name := range names {
			if strings.HasPrefix(line, name) && !(name == "lvx_packets_total" && strings.HasSuffix(line, " 0")) {
				kept = append(kept, line)
			}
		}
	}
	return strings.Join(kept, "\n")
}
