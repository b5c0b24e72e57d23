package faults

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// lvx check refuses what lvx run refuses, in the same words, and warns of what
// lvx run warns of; what a running lvx holds itself is no conflict.
func TestFault12CheckAgreesWithRun(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	d1 := r.Cluster.Host("d1")
	taken, err := d1.Listen("tcp", "127.0.0.1:9100")
	must(t, err)
	defer taken.Close()
	readOnly := filepath.Join(d1.Dir(), "file")
	must(t, os.WriteFile(readOnly, nil, 0o600))
	for name, c := range map[string]struct {
		spoil   func(file string)
		refused bool
		says    string
	}{
		"nothing": {func(string) {}, false, ""},
		"another XDP program": {func(file string) {
			replaceIn(t, file, "interface: eth0", "interface: "+withProgram(t, d1))
		}, true, "another XDP program is attached"},
		"directory at the socket": {func(file string) {
			must(t, os.MkdirAll(filepath.Join(d1.Dir(), "dir.sock", "x"), 0o700))
			replaceIn(t, file, "lvx.sock", "dir.sock")
		}, true, "a file that is no socket is in the way"},
		"no such interface": {func(file string) { replaceIn(t, file, "interface: eth0", "interface: eth7") }, true, "interface eth7: no such interface"},
		"IPVS that is not there": {func(file string) {
			replaceIn(t, file, "scheduler: rr", "forward: nat\n    scheduler: lblc")
		}, true, "web"},
		"unreadable notes": {func(string) {
			must(t, os.WriteFile(filepath.Join(d1.Dir(), "overrides.json"), []byte("\x00\x00"), 0o600))
		}, false, "overrides.json"},
		"read-only state_dir": {func(file string) { replaceIn(t, file, "state_dir: "+d1.Dir(), "state_dir: "+readOnly) }, false, "state_dir"},
		"taken listener":      {func(file string) { replaceIn(t, file, "admin: {", "admin: {listen: \"127.0.0.1:9100\", ") }, false, "127.0.0.1:9100"},
	} {
		t.Run(name, func(t *testing.T) {
			file, err := r.Config("d1", service(""))
			must(t, err)
			c.spoil(file)
			out, checkErr := d1.Run(t.Context(), lvx, "check", "-c", file)
			if said := out + errText(checkErr); (checkErr != nil) != c.refused || !strings.Contains(said, c.says) {
				t.Errorf("check: refused %v, want %v and %q:\n%s", checkErr != nil, c.refused, c.says, said)
			}
			if c.refused {
				if out, err := d1.Run(t.Context(), lvx, "run", "-c", file); err == nil || !strings.Contains(out+err.Error(), c.says) {
					t.Errorf("run does not refuse with %q: %v\n%s", c.says, err, out)
				}
				return
			}
			p, err := d1.Start(lvx, "run", "-c", file)
			must(t, err)
			r.Daemons["d1"] = p
			must(t, p.WaitOutput(t.Context(), "msg=serving"))
			if log := p.Output(); !strings.Contains(log, c.says) {
				t.Errorf("run does not warn of %q:\n%s", c.says, log)
			}
			if got := r.Curl(2, "http://"+rig.VIP); got != "r1 r2" && got != "r2 r1" {
				t.Errorf("requests: %s", got)
			}
			if out, err := d1.Run(t.Context(), lvx, "check", "-c", file); err != nil {
				t.Errorf("what a running lvx holds is a conflict: %v\n%s", err, out)
			}
			if name == "nothing" {
				withoutPins(t, r, file)
			}
			must(t, r.Leave("d1"))
		})
	}
}

// withoutPins removes the pins of a running lvx: its program is still lvx's, and
// another lvx hears who serves.
func withoutPins(t *testing.T, r *rig.Rig, file string) {
	t.Helper()
	d1 := r.Cluster.Host("d1")
	pins := regexp.MustCompile(`(?m)^pin_dir: (.*)$`).FindStringSubmatch(string(text(t, file)))[1]
	must(t, os.RemoveAll(pins))
	if out, err := d1.Run(t.Context(), lvx, "check", "-c", file); err != nil {
		t.Errorf("lvx's own program without pins is a conflict: %v\n%s", err, out)
	}
	before := text(t, file)
	replaceIn(t, file, "pin_dir: "+pins, "pin_dir: "+pins+"-other")
	replaceIn(t, file, "lvx.sock", "other.sock")
	for _, verb := range []string{"check", "run"} {
		if out, err := d1.Run(t.Context(), lvx, verb, "-c", file); err == nil || !strings.Contains(out+err.Error(), "another lvx (process ") {
			t.Errorf("lvx %s beside one without pins: %v\n%s", verb, err, out)
		}
	}
	must(t, os.WriteFile(file, before, 0o600))
}

func text(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	return b
}

// withProgram makes an interface that has somebody's XDP program.
func withProgram(t *testing.T, h *testenv.Host) string {
	t.Helper()
	commands(t, h, "ip link add veth5 type veth peer name veth6", "ip link set veth5 up", "ip link set veth6 up")
	must(t, h.Do(func() error {
		link, err := netlink.LinkByName("veth5")
		if err != nil {
			return err
		}
		return testenv.PassXDP(link)
	}))
	return "veth5"
}

// A configuration that a reload would refuse is named by lvx diff, and the unit
// of systemd runs no check that would stop a start which must succeed.
func TestFault12KeysThatAReloadRefuses(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("")))
	d1 := r.Cluster.Host("d1")
	file := filepath.Join(d1.Dir(), "lvx.yaml")
	for key, says := range map[string]string{
		"state_dir: ": "state_dir: changed, which a reload cannot do", "pin_dir: ": "pin_dir",
	} {
		replaceIn(t, file, key, key+"/nonexistent")
		for _, line := range []string{"check -c " + file, "diff --socket " + r.Socket("d1"), "reload --socket " + r.Socket("d1")} {
			if out, err := d1.Run(t.Context(), append([]string{lvx}, strings.Fields(line)...)...); !strings.Contains(out+errText(err), says) {
				t.Errorf("lvx %s does not say %q: %v\n%s", line, says, err, out)
			}
		}
		replaceIn(t, file, key+"/nonexistent", key)
	}
	unit, err := os.ReadFile("../../contrib/lvx.service")
	must(t, err)
	if strings.Contains(string(unit), "ExecStartPre") || !strings.Contains(string(unit), "\nStartLimitIntervalSec=0\n") {
		t.Errorf("the unit stops starts that must succeed:\n%s", unit)
	}
}
