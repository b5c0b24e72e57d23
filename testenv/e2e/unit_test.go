package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// property reads a line of the unit.
func property(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../contrib/lvx.service")
	must(t, err)
	m := regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("the unit has no %s", name)
	}
	return string(m[1])
}

// sandbox is a command line that gives a program what the unit leaves it: the
// capabilities, and a system that is read-only where ProtectSystem=true and
// ProtectHome=yes make it so.
func sandbox(t *testing.T) []string {
	t.Helper()
	caps := "-all"
	for c := range strings.FieldsSeq(property(t, "CapabilityBoundingSet")) {
		caps += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	if property(t, "ProtectSystem") != "true" || property(t, "ProtectHome") != "yes" {
		t.Fatal("the sandbox here is another one than the unit's")
	}
	const mounts = `set -e
mount --make-rprivate /
for dir in /usr /boot; do [ ! -d $dir ] || { mount --bind $dir $dir; mount -o remount,bind,ro $dir; }; done
exec "$@"`
	return []string{"unshare", "--mount", "sh", "-c", mounts, "sh", "setpriv", "--bounding-set", caps, "--"}
}

// messages are what a log says, without times and numbers that differ from run
// to run.
func messages(log string) []string {
	var all []string
	for _, m := range regexp.MustCompile(`level=(\w+) msg=("[^"]*"|\S+) component=?(\w*)`).FindAllStringSubmatch(log, -1) {
		if line := m[1] + " " + m[2]; !slices.Contains(all, line) {
			all = append(all, line)
		}
	}
	slices.Sort(all)
	return all
}

// The daemon does under the unit's sandbox what it does without one: forwards,
// checks by program and through the VIP, sends adverts with real-time
// priority, stores notes. Its log says the same.
func TestFault24UnitSandbox(t *testing.T) {
	logs := map[string][]string{}
	for _, name := range []string{"bare", "sandboxed"} {
		r := newRig(t, testenv.Shape{Directors: 1})
		d1 := r.Cluster.Host("d1")
		body := service("check: [{type: tcp, interval: 200ms, timeout: 5s, fall: 1, rise: 1}, {type: exec, argv: [/bin/true], interval: 200ms, timeout: 5s, fall: 1, rise: 1}]") +
			"vrrp:\n  - {name: VI_1, interface: eth0, virtual_router_id: 51, priority: 100, advert_interval: 100ms, version: 3, addresses: [" + rig.VIP + "/24]}\n"
		file, err := r.Config("d1", body)
		must(t, err)
		argv := []string{r.Self, "run", "-c", file}
		if name == "sandboxed" {
			argv = append(sandbox(t), argv...)
		}
		p, err := d1.Start(argv...)
		must(t, err)
		r.Daemons["d1"] = p
		eventually(t, func() error {
			got := r.Curl(2, "http://"+rig.VIP)
			if got == "r1 r2" || got == "r2 r1" {
				return nil
			}
			return fmt.Errorf("answered: %s", got)
		})
		_, err = r.LVX(t.Context(), "d1", "weight", "web", "172.25.0.12", "3")
		must(t, err)
		for _, kept := range []string{"overrides.json", "memory.json"} {
			eventually(t, func() error { _, err := os.Stat(filepath.Join(d1.Dir(), kept)); return err })
		}
		if name == "bare" { // what the test is able to see
			if out := run(t, d1, "ip", "addr", "show", "dev", "eth0"); !strings.Contains(out, rig.VIP) {
				t.Errorf("no VIP:\n%s", out)
			}
		}
		must(t, r.Stop("d1"))
		logs[name] = messages(p.Output()) // all of it: a line may come later than what it tells of
		nothingLeft(t, r, "d1")
	}
	if !slices.Equal(logs["bare"], logs["sandboxed"]) {
		t.Errorf("without a sandbox:\n%s\nwith the unit's:\n%s", strings.Join(logs["bare"], "\n"), strings.Join(logs["sandboxed"], "\n"))
	}
	for _, line := range logs["sandboxed"] {
		if strings.Contains(line, "real-time") {
			t.Errorf("the sandbox takes something away: %s", line)
		}
	}
}
