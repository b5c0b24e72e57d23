package vrrp

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// How tracked things count: keepalived's weights.
func TestReadings(t *testing.T) {
	x := func(weight int) Instance {
		return sample(func(i *Instance) { i.TrackExec = []TrackExec{{Argv: []string{"/bin/x", "a b"}, Weight: weight}} })
	}
	p := func(weight int) Instance {
		return sample(func(i *Instance) { i.TrackProcesses = []TrackProcess{{Name: "nginx", Weight: weight}} })
	}
	f := func(weight int) Instance {
		return sample(func(i *Instance) { i.TrackFiles = []TrackFile{{Path: "/run/x", Weight: weight}} })
	}
	b := func(weight int) Instance {
		return sample(func(i *Instance) { i.TrackBFD = []TrackBFD{{Name: "r1", Weight: weight}} })
	}
	reversed := func(weight int) Instance {
		i := b(weight)
		i.TrackBFD[0].IsReversed = true
		return i
	}
	reversedFile := func(weight int) Instance {
		i := f(weight)
		i.TrackFiles[0].IsReversed = true
		return i
	}
	failFirst := x(0)
	failFirst.TrackExec[0].InitFail = true
	good, bad := reading{isKnown: true, isGood: true}, reading{isKnown: true, why: "exit status 1"}
	for name, c := range map[string]struct {
		cfg  Instance
		seen *reading
		want Condition
	}{
		"passes":                    {x(0), &good, Condition{}},
		"passes, weight above 0":    {x(20), &good, Condition{Penalty: -20}},
		"passes, weight below 0":    {x(-20), &good, Condition{}},
		"fails":                     {x(0), &bad, Condition{Fault: "exec /bin/x a b: exit status 1"}},
		"fails, weight above 0":     {x(20), &bad, Condition{}},
		"fails, weight below 0":     {x(-20), &bad, Condition{Penalty: 20}},
		"not ended":                 {x(0), nil, Condition{Wait: "exec /bin/x a b has not ended yet"}},
		"not ended, weight above 0": {x(20), nil, Condition{Wait: "exec /bin/x a b has not ended yet", Penalty: -20}},
		"not ended, init fail":      {failFirst, nil, Condition{Fault: "exec /bin/x a b"}},
		"runs":                      {p(5), &good, Condition{Penalty: -5}},
		"does not run":              {p(0), &reading{isKnown: true, why: "0 running, want 1"}, Condition{Fault: "process nginx: 0 running, want 1"}},
		"session is up":             {b(0), &good, Condition{}},
		"session is up, above 0":    {b(7), &good, Condition{Penalty: -7}},
		"session is down":           {b(0), &reading{isKnown: true, why: "neighbour silent"}, Condition{Fault: "bfd r1: neighbour silent"}},
		"session is down, below 0":  {b(-7), &bad, Condition{Penalty: 7}},
		"reversed, up":              {reversed(0), &good, Condition{Fault: "bfd r1: reversed, and all is well"}},
		"reversed, down":            {reversed(0), &bad, Condition{}},
		"reversed, up, above 0":     {reversed(7), &good, Condition{Penalty: 7}},
		"reversed, down, above 0":   {reversed(7), &bad, Condition{}},
		"reversed, up, below 0":     {reversed(-7), &good, Condition{}},
		"reversed, down, below 0":   {reversed(-7), &bad, Condition{Penalty: -7}},
		"a number taken off":        {reversedFile(3), &reading{isKnown: true, isGood: true, number: 7}, Condition{Penalty: 21}},
		"a reversed 0":              {reversedFile(0), &reading{isKnown: true, isGood: true}, Condition{Fault: "file /run/x holds 0"}},
		"a reversed 1":              {reversedFile(0), &reading{isKnown: true, isGood: true, number: 1}, Condition{}},
		"session never reported":    {b(0), nil, Condition{Fault: "bfd r1: down"}},
		"a file that holds nothing": {f(0), nil, Condition{}},
		"a file that holds a 1":     {f(0), &reading{isKnown: true, isGood: true, number: 1}, Condition{Fault: "file /run/x holds 1"}},
		"a weighed number":          {f(3), &reading{isKnown: true, isGood: true, number: -7}, Condition{Penalty: 21}},
		"a weighed 0":               {f(3), nil, Condition{}},
	} {
		t.Run(name, func(t *testing.T) {
			rs := readings{}
			if c.seen != nil {
				for _, key := range keysOf(c.cfg) {
					rs[key] = *c.seen
				}
			}
			var got Condition
			rs.applyTo(&got, c.cfg)
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func keysOf(i Instance) (keys []string) {
	for _, x := range i.TrackExec {
		keys = append(keys, x.key())
	}
	for _, x := range i.TrackFiles {
		keys = append(keys, x.key())
	}
	for _, x := range i.TrackBFD {
		keys = append(keys, x.key())
	}
	for _, x := range i.TrackProcesses {
		keys = append(keys, x.key())
	}
	return keys
}

func TestExecStateRiseAndFall(t *testing.T) {
	failed := map[rune]error{'-': errors.New("no"), '?': fmt.Errorf("/bin/x: 16 %w", guard.ErrUnending)}
	for _, c := range []struct {
		initFail bool
		outcomes string // +, - and ? for what is not begun
		want     string // good or not after each
	}{
		{false, "+-+--++", "GGGGbbG"},
		{false, "--+", "Gbb"},
		{true, "+-++-", "bbbGG"},
		{false, "???-??-??+?+", "GGGGGGbbbbbG"},
	} {
		x := TrackExec{Fall: 2, Rise: 2, InitFail: c.initFail}
		s := execState{TrackExec: x, isGood: !x.InitFail}
		got := ""
		for _, o := range c.outcomes {
			if r := s.add(failed[o]); r.isGood {
				got += "G"
			} else {
				got += "b"
			}
		}
		if got != c.want {
			t.Errorf("%s, init fail %v: %s, want %s", c.outcomes, c.initFail, got, c.want)
		}
	}
}

// The real things: a program, a file and a process, until nobody wants to
// know any more.
func TestTrackers(t *testing.T) {
	defer goleak.VerifyNone(t)
	changed := make(chan struct{}, 1000)
	ts := newTrackers(slog.New(slog.DiscardHandler), func() { changed <- struct{}{} })
	number := filepath.Join(t.TempDir(), "number")
	cfg := sample(func(i *Instance) {
		i.TrackExec = []TrackExec{
			{Argv: []string{"/bin/true"}, Interval: 20 * time.Millisecond},
			{Argv: []string{"/bin/sleep", "60"}, Interval: 50 * time.Millisecond},
		}
		i.TrackFiles = []TrackFile{{Path: number}}
		i.TrackProcesses = []TrackProcess{{Name: "lvx-tracked-program"}, {Name: "lvx-tracked-program", Quorum: 2}}
	})
	wait := func(what string, ok func(readings) bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !ok(ts.snapshot()); {
			if time.Now().After(end) {
				t.Fatalf("%s: %+v", what, ts.snapshot())
			}
			select {
			case <-changed:
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	ts.set([]Instance{cfg})
	one, two := cfg.TrackProcesses[0].key(), cfg.TrackProcesses[1].key()
	wait("at first", func(rs readings) bool {
		return rs[cfg.TrackExec[0].key()].isGood && rs[cfg.TrackExec[1].key()].why == "timeout after 50ms" &&
			rs[one].why == "0 running, want 1" && rs[cfg.TrackFiles[0].key()].isKnown
	})
	if err := os.WriteFile(number, []byte("-4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The name is longer than the kernel keeps.
	program := filepath.Join(t.TempDir(), "lvx-tracked-program")
	if err := os.Symlink("/bin/sleep", program); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wait("with a number and a process", func(rs readings) bool {
		return rs[cfg.TrackFiles[0].key()].number == -4 && rs[one].isGood && rs[two].why == "1 running, want 2"
	})
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	wait("without the process", func(rs readings) bool { return !rs[one].isGood })
	if n, err := countProcesses(program, 1); n != 0 || err != nil {
		t.Errorf("%d processes of a path that has ended: %v", n, err)
	}
	ts.set([]Instance{sample(nil)})
	if rs := ts.snapshot(); len(rs) != 0 {
		t.Errorf("readings of what is not tracked: %+v", rs)
	}
	ts.set(nil)
}

// VIPs on another interface, and ones that no advert names.
func TestPlacesAndUnadvertised(t *testing.T) {
	i := sample(func(i *Instance) {
		i.Addresses = prefixes("10.99.0.100/24", "10.98.0.100/24", "10.99.0.101/24")
		i.Devices = map[netip.Addr]string{netip.MustParseAddr("10.98.0.100"): "eth1"}
		i.Unadvertised = []netip.Addr{netip.MustParseAddr("10.99.0.101"), netip.MustParseAddr("10.98.0.100")}
	})
	if got := i.advertised(); len(got) != 1 || got[0] != netip.MustParseAddr("10.99.0.100") {
		t.Errorf("advertised %v", got)
	}
	places := i.Places()
	if len(places) != 2 || places[0].Interface != "eth0" || len(places[0].VIPs) != 2 || places[1].Interface != "eth1" || len(places[1].VIPs) != 1 {
		t.Errorf("places %+v", places)
	}
	host := links{
		"eth0": {index: 1, up: true, addrs: prefixes("10.99.0.1/24", "10.99.0.100/24", "10.99.0.101/24")},
		"eth1": {index: 2, up: true, addrs: prefixes("10.98.0.100/24")},
	}
	if c := host.conditionFor(i, nil, nil); c.Fault != "" || !host.hasVIPs(i) {
		t.Errorf("condition %+v, has VIPs %v", c, host.hasVIPs(i))
	}
	host["eth1"] = link{index: 2}
	if c := host.conditionFor(i, nil, nil); c.Fault != "eth1 is down" {
		t.Errorf("with the other interface down: %+v", c)
	}
	delete(host, "eth1")
	if c := host.conditionFor(i, nil, nil); c.Fault != "no interface eth1" || host.hasVIPs(i) {
		t.Errorf("without the other interface: %+v", c)
	}
}

func TestUnicastSource(t *testing.T) {
	i := sample(func(i *Instance) { i.Source = netip.MustParseAddr("10.99.0.7") })
	host := links{"eth0": {index: 1, up: true, addrs: prefixes("10.99.0.1/24", "10.99.0.7/24")}}
	if c := host.conditionFor(i, nil, nil); c.Self != i.Source || c.Fault != "" {
		t.Errorf("%+v", c)
	}
	i.Source = netip.MustParseAddr("10.99.0.8")
	if c := host.conditionFor(i, nil, nil); c.Fault != "no address 10.99.0.8 on eth0" {
		t.Errorf("%+v", c)
	}
	i.Source = netip.MustParseAddr("fe80::1")
	if err := i.Validate(); err == nil || !strings.Contains(err.Error(), "source fe80::1 of another family") {
		t.Errorf("%v", err)
	}
}
