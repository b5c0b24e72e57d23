package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// A command of a document begins a line of a block, or is a span of code; one
// of --help is a line of its examples.
var (
	typedBlock = regexp.MustCompile("(?ms)^ *```(?:sh)?\n(.*?)^ *```")
	typedSpan  = regexp.MustCompile("`((?:sudo )?(?:bin/)?lvx [^`\n]+)`")
	typedLine  = regexp.MustCompile(`(?m)^ *(?:[#$] )?((?:sudo )?(?:bin/)?lvx .*?(?:\\\n.*?)?)(?: {2,}#.*)?$`)
	bareName   = regexp.MustCompile(`^lvx [a-z]+( [a-z]+)?$`)
	subcommand = regexp.MustCompile(`(?m)^  ([a-z-]+) +\S`)
)

// notTyped is what looks like a command and is none: output, and forms with
// parts that the reader leaves out.
var notTyped = regexp.MustCompile(`^lvx (devel,|puts )|\.\.\.|…|master\|backup|^lvx demo|^lvx (man|completion) |--start-daemon$|^lvx run -c$`)

// documentedCommands lists the commands of the documents and of --help, with
// where they stand.
func documentedCommands(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	add := func(where, command string) {
		command = strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(command), "sudo "), "bin/")
		if command = regexp.MustCompile(`\s*\\\n\s*`).ReplaceAllString(command, " "); !notTyped.MatchString(command) {
			all[command] = where
		}
	}
	names, err := filepath.Glob("../../docs/*.md")
	must(t, err)
	for _, name := range append(names, "../../README.md", "../../CONTRIBUTING.md", "../../SECURITY.md") {
		text, err := os.ReadFile(name)
		must(t, err)
		for _, block := range typedBlock.FindAllStringSubmatch(string(text), -1) {
			for _, m := range typedLine.FindAllStringSubmatch(block[1], -1) {
				add(filepath.Base(name), m[1])
			}
		}
		for _, m := range typedSpan.FindAllStringSubmatch(typedBlock.ReplaceAllString(string(text), ""), -1) {
			if bareName.MatchString(m[1]) { // the command is spoken of
				m[1] += " --help"
			}
			add(filepath.Base(name), m[1])
		}
	}
	var help func(command ...string)
	help = func(command ...string) {
		out, err := exec.Command(lvx, append(command, "--help")...).CombinedOutput()
		if err != nil {
			t.Fatalf("lvx %s --help: %v\n%s", strings.Join(command, " "), err, out)
		}
		_, examples, _ := strings.Cut(string(out), "\nExamples:\n")
		examples, _, _ = strings.Cut(examples, "\n\n")
		for _, m := range typedLine.FindAllStringSubmatch(examples, -1) {
			add("lvx "+strings.Join(command, " ")+" --help", m[1])
		}
		_, subs, _ := strings.Cut(string(out), "Commands:\n")
		subs, _, _ = strings.Cut(subs, "\n\n")
		for _, m := range subcommand.FindAllStringSubmatch(subs, -1) {
			if m[1] != "help" && m[1] != "ipvsadm" { // ipvsadm's own help is ipvsadm's
				help(append(slices.Clone(command), m[1])...)
			}
		}
	}
	help()
	return all
}

// typedNames are what the documents call hosts and files by, as this cluster has them.
var typedNames = strings.NewReplacer(
	"192.168.1.100", rig.VIP, "192.0.2.100", rig.VIP, "192.168.1.111", rig.VIP, "192.168.79.99", rig.VIP, " VIP", " "+rig.VIP,
	"198.51.100.7", "172.25.0.50", "192.168.1.12", "172.25.0.12", "192.168.79.27", "172.25.0.12",
	"CLIENT:PORT", "172.25.0.50:4000", "SERVICE REAL", "web 172.25.0.12", "-c FILE", "-c /etc/lvx/lvx.yaml", "eth1", "eth0",
)

// typing is a director whose files are where the documents have them, in a
// mount namespace of its own.
type typing struct {
	*testing.T
	*rig.Rig
	d1     *testenv.Host
	holder *testenv.Process
	daemon *testenv.Process
}

// typedIn is the directory that lines are typed in, of the host's own /root.
const typedIn = "/root/typed"

// typedMounts makes a host's directories its own: nothing that is typed
// reaches those of this machine.
const typedMounts = `set -e
mount --make-rprivate /
mkdir -p $0/etc $0/bpf $0/bin
cp -a /etc/. $0/etc/
mount --bind $0/etc /etc
mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /var/lib; mount -t tmpfs tmpfs /root; mount -t tmpfs tmpfs /usr/local
mount -t bpf bpf /sys/fs/bpf
mkdir -p /etc/lvx /etc/keepalived /usr/local/bin /usr/local/share/man ` + typedIn + `
install -m 755 $1 /usr/local/bin/lvx
for other in jq ssh systemctl; do printf '#!/bin/sh\ncat >/dev/null </dev/stdin\n' >/usr/local/bin/$other; chmod 755 /usr/local/bin/$other; done
touch /run/mounted
exec sleep 3600`

const typedKeepalived = `vrrp_instance VI_1 {
  interface eth0
  virtual_router_id 51
  priority 100
  virtual_ipaddress { 172.25.0.100 }
}
virtual_server 172.25.0.100 80 {
  lb_algo rr
  lb_kind DR
  protocol TCP
  real_server 172.25.0.12 80 { TCP_CHECK { connect_timeout 1 } }
}
`

// typedFiles are what the commands read, in the directory that they are typed in.
func (s *typing) typedFiles() {
	body := "interface: eth0\n" + service("", "172.25.0.12", "172.25.0.13")
	for name, text := range map[string]string{
		"/etc/lvx/lvx.yaml": body, "lvx.yaml": body, "new.yaml": strings.Replace(body, "rr", "wrr", 1),
		"keepalived.conf": typedKeepalived, "/etc/keepalived/keepalived.conf": typedKeepalived,
		"rules": "-A -t 172.25.0.100:81 -s rr\n-a -t 172.25.0.100:81 -r 172.25.0.12:81 -g -w 1\n", "marks": "*mangle\nCOMMIT\n",
		"ip_vs_conn": "", "/proc.txt": "",
	} {
		if !filepath.IsAbs(name) {
			name = typedIn + "/" + name
		}
		file := filepath.Join(s.d1.Dir(), "typed")
		must(s, os.WriteFile(file, []byte(text), 0o600))
		if out, code := s.shell(s.d1, "install -m 600 "+file+" "+name); code != 0 {
			s.Fatalf("%s: %s", name, out)
		}
	}
}

// shell types a line on a host in the director's mount namespace; what watches
// is ended by Ctrl-C, which is exit status 130 as with every program.
func (s *typing) shell(h *testenv.Host, line string) (out string, code int) {
	ctx, cancel := context.WithTimeout(s.Context(), 2*time.Minute)
	defer cancel()
	patience := "60"
	if watching.MatchString(line) {
		patience = "1"
	}
	out, err := h.Run(ctx, "nsenter", "-t", strconv.Itoa(s.holder.Pid()), "--mount", "--",
		"timeout", "--preserve-status", "--kill-after", "30", "--signal", "INT", patience, "bash", "-o", "pipefail", "-c", "cd "+typedIn+"\n"+line+" 2>&1")
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return out + err.Error(), exit.ExitCode()
	case err != nil:
		s.Fatalf("%s: %v", line, err)
	}
	return out, 0
}

// serve has a daemon run with the file, afresh.
func (s *typing) serve() {
	s.typedFiles()
	if out, code := s.shell(s.d1, "lvx reload && lvx runtime clear && lvx weight web 172.25.0.12 --clear"); code == 0 {
		return
	} else if s.daemon != nil {
		s.Logf("starting anew: %s", out)
		_ = s.daemon.Stop()
	}
	p, err := s.d1.Start("nsenter", "-t", strconv.Itoa(s.holder.Pid()), "--mount", "--", "lvx", "run")
	must(s, err)
	s.daemon = p
	eventually(s.T, func() error {
		if out, code := s.shell(s.d1, "lvx status"); code != 0 {
			return fmt.Errorf("%s\n%s", out, p.Output())
		}
		return nil
	})
}

// A command that watches until Ctrl-C.
var watching = regexp.MustCompile(`^lvx (trace|capture|top|run)\b`)

// typedBefore are what has to be done before a command can be typed, by how the
// command begins.
var typedBefore = map[string]string{
	"lvx run": "lvx stop", "lvx purge": "lvx stop", "lvx config init -o": "rm /etc/lvx/lvx.yaml",
	"lvx ipvsadm -A -t": "lvx ipvsadm -D -t 172.25.0.100:80", "lvx ipvsadm -a -t": "lvx ipvsadm -d -t 172.25.0.100:80 -r 172.25.0.12",
	"lvx real status": "lvx real up --vip 172.25.0.100", "lvx real down": "lvx real up --vip 172.25.0.100",
	"lvx drain --director": `printf 'vrrp: [{name: VI_1, virtual_router_id: 51, addresses: [172.25.0.100/24]}]\n' >>/etc/lvx/lvx.yaml; lvx reload`,
}

// typedExits are the commands that do not end with 0 where they are typed here, and why.
var typedExits = map[string]struct {
	code int
	says string
}{
	"lvx sync push":                     {1, "no director with kernel IPVS is told of connections (set sync: {syncid: N}, or lvx ipvsadm --start-daemon master)"},
	"lvx weight web 172.25.0.12:8080 0": {1, "not found (there are 172.25.0.12, 172.25.0.13)"},
}

// kernelLacks is what a command for tunnels says where the kernel has none.
var kernelLacks = regexp.MustCompile(`this kernel has no \w+ device|no tunnel device is up`)

// before is what has to be done before a command.
func before(command string) string {
	longest := ""
	for begin := range typedBefore {
		if strings.HasPrefix(command+" ", begin+" ") && len(begin) > len(longest) {
			longest = begin
		}
	}
	return typedBefore[longest]
}

// Every command that a document or --help shows is typed, as it is, on a
// director that serves, or on a real: it is a command, its options are options, and it ends
// as it should.
func TestFault09DocumentedCommands(t *testing.T) {
	t.Parallel() // it waits most of its time
	s := &typing{T: t, Rig: newRig(t, testenv.Shape{Directors: 1})}
	s.d1 = s.Cluster.Host("d1")
	var err error
	s.holder, err = s.d1.Start("unshare", "--mount", "sh", "-c", typedMounts, s.d1.Dir(), lvx)
	must(t, err)
	eventually(t, func() error {
		_, err := os.Stat(fmt.Sprintf("/proc/%d/root/run/mounted", s.holder.Pid()))
		return err
	})
	commands := documentedCommands(t)
	if len(commands) < 100 {
		t.Errorf("%d commands only", len(commands))
	}
	for command := range typedExits {
		if commands[command] == "" {
			t.Errorf("nothing shows %q any more", command)
		}
	}
	for _, command := range slices.Sorted(maps.Keys(commands)) {
		s.serve()
		line, host := typedNames.Replace(command), s.d1
		if strings.HasPrefix(line, "lvx real ") {
			host = s.Cluster.Host("r1")
		}
		if first := before(line); first != "" {
			s.shell(host, first)
		}
		out, code := s.shell(host, line)
		want := typedExits[command]
		if watching.MatchString(line) && code == 130 || code == 1 && kernelLacks.MatchString(out) {
			code = 0
		}
		if code != want.code || !strings.Contains(out, want.says) {
			t.Errorf("%s: $ %s (as %s) ends with %d, want %d and %q:\n%s", commands[command], command, line, code, want.code, want.says, out)
		}
	}
	t.Logf("%d commands were typed", len(commands))
}
