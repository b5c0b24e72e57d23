package director

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/history"
	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// commandsOf parses rules, which have to be right.
func commandsOf(t rapid.TB, rules string) (all []ipvsadm.Command) {
	t.Helper()
	err := ipvsadm.Rules(strings.NewReader(rules), func(args []string) bool {
		c, fail := ipvsadm.Parse("ipvsadm", args, nil)
		if fail != nil {
			t.Fatalf("%s: %s", args, fail.Text)
		}
		all = append(all, c)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// edit carries out rules and gives what ipvsadm would say, line by line.
func (r *rig) edit(rules string) string {
	r.Helper()
	result, err := r.Edit(r.Context(), commandsOf(r, rules))
	if err != nil {
		return err.Error()
	}
	var said []string
	for _, f := range result.Failures {
		if f != nil {
			said = append(said, f.Text)
		}
	}
	return strings.Join(append(said, result.Notes...), "\n")
}

const vipRules = `-A -t 10.0.0.100:443 -s wrr
-a -t 10.0.0.100:443 -r 10.0.0.21 -g -w 2
-a -t 10.0.0.100:443 -r 10.0.0.22 -g -w 1
`

// realsOf writes a state's services: "web 1*1 2*1; ...".
func realsOf(s lb.State) string {
	var all []string
	for _, svc := range s.Services {
		line := svc.Name
		for _, r := range svc.Reals {
			line += fmt.Sprintf(" %d*%d", int(r.Addr.As4()[3])-10, r.Weight)
		}
		all = append(all, line)
	}
	return strings.Join(all, "; ")
}

func (r *rig) wantServices(what, want string) {
	r.Helper()
	if got := realsOf(r.state()); got != want {
		r.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestRuntimeServices(t *testing.T) {
	cfg := configOf(service("web", 1, 1))
	cfg.StateDir = t.TempDir()
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		r.health.result(1, true, "")
		r.health.result(2, true, "")
		r.wantServices("before", "web 1*1 2*1")
		before := len(r.backend.Applied())
		if said := r.edit(vipRules); said != "" {
			t.Error(said)
		}
		for _, s := range r.backend.Applied()[before:] {
			if len(s.Services) != 2 || len(s.Services[1].Reals) != 2 {
				t.Errorf("three commands were applied in parts: %s", realsOf(s))
			}
		}
		r.wantServices("added", "web 1*1 2*1; tcp-10-0-0-100-443 11*2 12*1")
		if said := r.edit("-A -t 10.0.0.100:80 -s rr\n-A -t 10.0.0.100:443\n-D -t 10.0.0.100:1"); said != "Service already exists\nService already exists\nNo such service" {
			t.Errorf("said %q", said)
		}
		r.edit("-e -t 10.0.0.100:443 -r 10.0.0.21 -w 7\n-d -t 10.0.0.100:443 -r 10.0.0.22")
		r.wantServices("edited", "web 1*1 2*1; tcp-10-0-0-100-443 11*7")
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.wantServices("reloaded", "web 1*1 2*1; tcp-10-0-0-100-443 11*7")
		st, _ := r.Status(t.Context())
		if st.Edits != 1 || st.Services[0].Runtime != "" || st.Services[1].Runtime != "added by ipvsadm" {
			t.Errorf("status: %d edits, %q, %q", st.Edits, st.Services[0].Runtime, st.Services[1].Runtime)
		}
	})
	// Without a moment's notice: what was answered is on the disk.
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		r.health.result(1, true, "")
		r.wantServices("restarted", "web 1*1 2*1; tcp-10-0-0-100-443 11*7")
		r.edit("-C")
		r.wantServices("cleared", "web 1*1 2*1")
	})
	if _, err := os.Stat(filepath.Join(cfg.StateDir, runtimeFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty layer has a file: %v", err)
	}
}

// Edits of a service of the file are patches: the file's own changes come
// through, and what the file says by itself is dropped.
func TestRuntimePatches(t *testing.T) {
	inBubble(t, configOf(service("web", 1, 1)), func(t *testing.T, r *rig) {
		for n := range 3 {
			r.health.result(n+1, true, "")
		}
		r.edit("-e -t 10.0.0.100:80 -r 10.0.0.11 -w 5\n-a -t 10.0.0.100:80 -r 10.0.0.19 -w 9\n-d -t 10.0.0.100:80 -r 10.0.0.12")
		r.wantServices("patched", "web 1*5 9*9")
		st, _ := r.Status(t.Context())
		if want := "differs from the file: added 10.0.0.19 weight 9; 10.0.0.11 weight 5; removed 10.0.0.12"; st.Services[0].Runtime != want {
			t.Errorf("status says %q, want %q", st.Services[0].Runtime, want)
		}
		r.next = configOf(service("web", 1, 1, 3))
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.health.result(3, true, "")
		r.wantServices("the file has a third", "web 1*5 3*3 9*9")
		next := service("web", 5)
		next.Reals = append(next.Reals, lb.Real{Addr: server(9), Weight: 9})
		next.Checks = append(next.Checks, nil)
		r.next = configOf(next)
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.wantServices("the file says the same", "web 1*5 9*9")
		if !r.runtime.IsEmpty() {
			t.Errorf("left: %+v", r.runtime)
		}
		r.edit("-D -t 10.0.0.100:80\n-A -t 10.0.0.100:81 -s rr")
		r.wantServices("removed", "tcp-10-0-0-100-81")
		if _, err := r.ClearRuntime(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.health.result(1, true, "")
		r.wantServices("forgotten", "web 1*5 9*9")
	})
}

// A service that is removed and added again in one go is the service that was
// there: its name decides whose connections go on.
func TestRuntimeRestoreKeepsNames(t *testing.T) {
	inBubble(t, configOf(service("web", 1)), func(t *testing.T, r *rig) {
		r.health.result(1, true, "")
		r.edit(vipRules)
		r.wantServices("before", "web 1*1; tcp-10-0-0-100-443 11*2 12*1")
		r.edit("-C\n" + vipRules)
		r.wantServices("flushed and added", "web 1*1; tcp-10-0-0-100-443 11*2 12*1")
		r.edit("-D -t 10.0.0.100:443\n" + vipRules)
		r.wantServices("deleted and added", "web 1*1; tcp-10-0-0-100-443 11*2 12*1")
		r.edit("-D -t 10.0.0.100:80\n-A -t 10.0.0.100:80 -s rr\n-a -t 10.0.0.100:80 -r 10.0.0.11 -w 4")
		r.wantServices("a service of the file", "web 1*4; tcp-10-0-0-100-443 11*2 12*1")
	})
}

// A file that names another service as the layer has named one of its own leaves
// both served, each where it listens.
func TestRuntimeNameTakenByFile(t *testing.T) {
	cfg := configOf(service("web", 1))
	cfg.StateDir = t.TempDir()
	taken := *cfg
	other := service("tcp-10-0-0-100-443", 5)
	other.Listeners = slices.Clone(other.Listeners)
	other.Listeners[0].First, other.Listeners[0].Last = 8443, 8443
	taken.Services = append(slices.Clone(cfg.Services), other)
	served := func(t *testing.T, r *rig, when string) {
		t.Helper()
		at := map[string]string{}
		for _, s := range r.state().Services {
			for _, l := range s.Listeners {
				at[l.String()] = s.Name
			}
		}
		if diff := cmp.Diff(map[string]string{
			"10.0.0.100:80/tcp": "web", "10.0.0.100:8443/tcp": "tcp-10-0-0-100-443", "10.0.0.100:443/tcp": "tcp-10-0-0-100-443-2",
		}, at); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		r.edit(vipRules)
		r.next = &taken
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		served(t, r, "reloaded")
	})
	inBubble(t, &taken, func(t *testing.T, r *rig) { served(t, r, "restarted") })
}

// The last word wins: an edit of a weight ends the operator's override.
func TestRuntimeEndsOverride(t *testing.T) {
	inBubble(t, configOf(service("web", 1, 1)), func(t *testing.T, r *rig) {
		r.health.result(1, true, "")
		r.health.result(2, true, "")
		w := uint16(9)
		if _, err := r.SetWeight(t.Context(), "web", "10.0.0.11", &w); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Drain(t.Context(), "web", "10.0.0.12", DrainOptions{}); err != nil {
			t.Fatal(err)
		}
		r.wantServices("overridden", "web 1*9 2*0")
		r.edit("-e -t 10.0.0.100:80 -r 10.0.0.12 -w 1") // what the file says, too
		r.wantServices("one override is over", "web 1*9 2*1")
		r.edit("-e -t 10.0.0.100:80 -r 10.0.0.11 -w 4")
		r.wantServices("both are", "web 1*4 2*1")
		var logged []string
		for _, e := range r.History(history.Filter{Kind: history.Operator, Subject: "web"}) {
			logged = append(logged, e.Text)
		}
		if want := []string{"ipvsadm: 10.0.0.11 weight 4"}; !slices.Equal(logged, want) {
			t.Errorf("history of web: %q, want %q", logged, want)
		}
		if es := r.History(history.Filter{Subject: "10.0.0.12 of web"}); len(es) == 0 || es[len(es)-1].Text != "drain ended by an edit of ipvsadm's" {
			t.Errorf("history of the real: %v", es)
		}
	})
}

// An edit of a real ends no override of another one that has its address.
func TestRuntimeEndsNoOverrideOfAnotherPort(t *testing.T) {
	svc := service("web", 1, 1, 1)
	for i, port := range []uint16{8080, 8081, 0} {
		svc.Reals[i] = lb.Real{Addr: server(1), Port: port, Weight: 1, Forward: lb.NAT}
	}
	svc.Checks = nil
	inBubble(t, configOf(svc), func(t *testing.T, r *rig) {
		left := func() (reals []string) {
			for _, o := range r.overrides {
				reals = append(reals, RealName(o.Real))
			}
			return reals
		}
		w := uint16(9)
		for _, key := range []netip.AddrPort{svc.Reals[0].Key(), svc.Reals[1].Key(), svc.Reals[2].Key()} {
			r.overrides = r.overrides.edit("web", key, func(o *Override) { o.Weight = &w })
		}
		for _, step := range []struct {
			rule string
			want []string
		}{
			{"-e -t 10.0.0.100:80 -r 10.0.0.11:8080 -m -w 4", []string{"10.0.0.11", "10.0.0.11:8081"}},
			{"-e -t 10.0.0.100:80 -r 10.0.0.11 -m -w 4", []string{"10.0.0.11:8081"}},
			{"-d -t 10.0.0.100:80 -r 10.0.0.11:8081", nil},
		} {
			if said := r.edit(step.rule); said != "" || !slices.Equal(left(), step.want) {
				t.Errorf("%s: overrides of %q are left, want %q %s", step.rule, left(), step.want, said)
			}
		}
	})
}

func TestRuntimeFlush(t *testing.T) {
	inBubble(t, configOf(service("web", 1)), func(t *testing.T, r *rig) {
		r.health.result(1, true, "")
		r.edit(vipRules)
		if said := r.edit("-C"); said != "lvx: 1 services are defined in the configuration file and stay (lvx ipvsadm -C --force)" {
			t.Errorf("said %q", said)
		}
		r.wantServices("flushed", "web 1*1")
		if _, err := r.Edit(t.Context(), []ipvsadm.Command{{Op: ipvsadm.Flush, Force: true}}); err != nil {
			t.Fatal(err)
		}
		r.wantServices("forced", "")
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.wantServices("a reload brings nothing back", "")
	})
}

// What the backend refuses is in force in no part, and is not stored.
func TestRuntimeRefusedByBackend(t *testing.T) {
	cfg := configOf(service("web", 1))
	cfg.StateDir = t.TempDir()
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		r.health.result(1, true, "")
		r.want("before", "1*1")
		r.vips.mu.Lock()
		r.vips.err = errors.New("no such interface")
		r.vips.mu.Unlock()
		if said := r.edit("-A -t 10.0.0.101:80"); !strings.Contains(said, "no such interface") {
			t.Errorf("said %q", said)
		}
		r.vips.mu.Lock()
		r.vips.err = nil
		r.vips.mu.Unlock()
		if said := r.edit("-D -t 10.0.0.101:80"); said != "No such service" {
			t.Errorf("said %q", said)
		}
	})
}

func TestRuntimeRefusedByFile(t *testing.T) {
	cfg := configOf(service("web", 1))
	cfg.StateDir = t.TempDir()
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		r.edit(vipRules)
		refusing := *cfg
		refusing.RuntimeEdits = config.RefuseEdits
		r.next = &refusing
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.wantServices("the file alone", "web")
		if said := r.edit("-C"); said != ErrRuntimeRefused.Error() {
			t.Errorf("said %q", said)
		}
		r.next = cfg
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.wantServices("allowed again", "web; tcp-10-0-0-100-443 11*2 12*1")
	})
}

// A layer that cannot be read is moved aside, and the file serves.
func TestRuntimeBroken(t *testing.T) {
	cfg := configOf(service("web", 1))
	cfg.StateDir = t.TempDir()
	if err := os.WriteFile(filepath.Join(cfg.StateDir, runtimeFile), []byte("\x00\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		r.wantServices("the file", "web")
	})
}

func TestRuntimeTimeoutsAndZero(t *testing.T) {
	inBubble(t, configOf(service("web", 1)), func(t *testing.T, r *rig) {
		r.health.result(1, true, "")
		r.want("before", "1*1")
		r.edit("--set 100 0 30")
		if got := r.state().Timeouts.WithDefaults(); got.TCP.Seconds() != 100 || got.TCPFin.Seconds() != 120 || got.UDP.Seconds() != 30 {
			t.Errorf("timeouts %+v", got)
		}
		conns := func() uint64 {
			l, err := r.List(t.Context(), Want{SinceZeroed: true})
			if err != nil {
				t.Fatal(err)
			}
			return l.Stats.Services[0].Conns
		}
		send := func(port uint16) {
			r.backend.Send(lb.Packet{Proto: lb.TCP, Src: netip.AddrPortFrom(server(99), port), Dst: netip.AddrPortFrom(vip, 80), Flags: "S"})
		}
		send(1)
		send(2)
		if n := conns(); n != 2 {
			t.Fatalf("%d connections", n)
		}
		r.edit("-Z -t 10.0.0.100:80")
		send(3)
		if n := conns(); n != 1 {
			t.Errorf("%d connections since they were zeroed", n)
		}
		st, _ := r.backend.Stats()
		if st.Services[0].Conns != 3 {
			t.Errorf("the backend counts %d", st.Services[0].Conns)
		}
		r.health.result(1, false, "down")
		r.want("down", "")
		r.edit("-Z -t 10.0.0.100:80")
		r.health.result(1, true, "")
		r.want("up again", "1*1")
		if l, err := r.List(t.Context(), Want{SinceZeroed: true}); err != nil || l.Stats.Services[0].Reals[0].Conns != 0 {
			t.Errorf("a real that was down when its counters were zeroed: %+v, %v", l.Stats.Services, err)
		}
		r.edit("-D -t 10.0.0.100:80")
		r.edit("-A -t 10.0.0.100:80\n-a -t 10.0.0.100:80 -r 10.0.0.11")
		r.health.result(1, true, "")
		r.want("added again", "1*1")
		for port := range uint16(3) {
			send(10 + port)
		}
		if n := conns(); n != 3 {
			t.Errorf("%d connections of the service that was removed and added again", n)
		}
	})
}

// Counters that were zeroed hide nothing of those that have begun anew since: those of
// a service that was removed and added again, or that a reboot has ended.
func TestZeroedCountersThatBeganAnew(t *testing.T) {
	counts := func(conns, realConns uint64) lb.Stats {
		return lb.Stats{Services: []lb.ServiceStats{{
			Name: "web", Counters: lb.Counters{Conns: conns},
			Reals: []lb.RealStats{{Addr: server(1), Counters: lb.Counters{Conns: realConns}}},
		}}}
	}
	rt := Runtime{Zeroed: []ZeroedService{{
		Name: "web", Counters: lb.Counters{Conns: 100},
		Reals: []ZeroedReal{{netip.AddrPortFrom(server(1), 0), lb.Counters{Conns: 60}}},
	}}}
	for _, step := range []struct{ service, real, wantService, wantReal uint64 }{
		{110, 61, 10, 1},
		{120, 2, 20, 2}, // the real was removed and added again
		{180, 62, 80, 62},
		{5, 1, 5, 1}, // the service too
		{200, 150, 200, 150},
	} {
		st := counts(step.service, step.real)
		rt, _ = rt.withoutRestarted(&st)
		rt.hideZeroed(&st)
		if s := st.Services[0]; s.Conns != step.wantService || s.Reals[0].Conns != step.wantReal {
			t.Errorf("%+v: service %d, real %d", step, s.Conns, s.Reals[0].Conns)
		}
	}
}

// What a layer says of the reals of a file does not depend on the order in which
// it was typed: one that was removed and added again is where the file has it.
func TestRuntimePatchIsInTheFilesOrder(t *testing.T) {
	file := configOf(service("web", 1, 2, 3))
	table := newRuntimeTable(file, &Runtime{})
	for _, c := range commandsOf(t, "-d -t 10.0.0.100:80 -r 10.0.0.11\n-e -t 10.0.0.100:80 -r 10.0.0.12 -w 0\n-a -t 10.0.0.100:80 -r 10.0.0.11 -w 0") {
		if fail := table.do(c); fail != nil {
			t.Fatal(fail.Text)
		}
	}
	rt := table.layer()
	again, _ := rt.rebase(file)
	if diff := cmp.Diff(rt, again, compareAddrs); diff != "" {
		t.Errorf("rebased on the same file (-layer +rebased):\n%s", diff)
	}
	if got := realsOf(lb.State{Services: []lb.Service{rt.merge(file, nil).Services[0].Service}}); got != "web 1*0 2*0 3*3" {
		t.Errorf("served: %s", got)
	}
}

// Whatever is typed: what runs, written down as a layer on the file, merges
// to what runs; and a file that has it needs no layer.
func TestRuntimeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		file := configOf(service("web", 1, 2, 3), service("dns", 1))
		file.Services[1].Listeners = []lb.Listener{{Addr: vip, Proto: lb.UDP, First: 53, Last: 53}}
		var rt Runtime
		for range rapid.IntRange(1, 12).Draw(t, "commands") {
			table := newRuntimeTable(file, &rt)
			for _, c := range commandsOf(t, rapid.Custom(drawRule).Draw(t, "rule")) {
				table.do(c)
			}
			rt = table.layer()
		}
		running := rt.merge(file, nil)
		again, dropped := rt.rebase(file)
		if diff := cmp.Diff(rt, again, compareAddrs); diff != "" || len(dropped) > 0 {
			t.Fatalf("rebased on the same file (-layer +rebased), dropped %v:\n%s", dropped, diff)
		}
		next, _ := rt.rebase(running)
		next.Timeouts = [3]int{}
		if !next.IsEmpty() {
			t.Fatalf("a file that says what runs needs a layer: %+v", next)
		}
		if diff := cmp.Diff(running.Services, next.merge(running, nil).Services, compareAddrs); diff != "" {
			t.Fatalf("-running +exported:\n%s", diff)
		}
	})
}

func drawRule(t *rapid.T) string {
	at := rapid.SampledFrom([]string{"-t 10.0.0.100:80", "-u 10.0.0.100:53", "-t 10.0.0.100:81", "-f 7", "-t 10.0.0.101:0 -p 60"}).Draw(t, "service")
	bare, _, _ := strings.Cut(at, " -p")
	real := fmt.Sprintf(" -r 10.0.0.1%d", rapid.IntRange(1, 4).Draw(t, "real"))
	weight := fmt.Sprintf(" -w %d", rapid.IntRange(0, 9).Draw(t, "weight"))
	how := rapid.SampledFrom([]string{"", " -m", " -i", " -x 9 -y 3"}).Draw(t, "how")
	return rapid.SampledFrom([]string{
		"-A " + at + " -s wrr", "-E " + at + " -s sh -b sh-port", "-D " + bare, "-a " + bare + real + weight + how,
		"-e " + bare + real + weight + how, "-d " + bare + real, "-C", "--set 10 20 30",
	}).Draw(t, "rule")
}

// A table of 12,700 rules comes into force at once.
func TestRuntimeLarge(t *testing.T) {
	var rules strings.Builder
	for s := range 1270 {
		at := fmt.Sprintf("-t 10.1.%d.%d:80", s/250, s%250+1)
		fmt.Fprintf(&rules, "-A %s -s wrr\n", at)
		for n := range 9 {
			fmt.Fprintf(&rules, "-a %s -r 10.2.%d.%d -w %d\n", at, s%250, n+1, n)
		}
	}
	inBubble(t, configOf(service("web", 1)), func(t *testing.T, r *rig) {
		synctest.Wait()
		before := len(r.backend.Applied())
		if said := r.edit(rules.String()); said != "" {
			t.Fatal(said)
		}
		synctest.Wait()
		applied := r.backend.Applied()[before:]
		for _, s := range applied { // the second one brings the MACs of the new reals
			if len(s.Services) != 1271 || len(s.Services[1270].Reals) != 9 {
				t.Errorf("applied in parts: %d services", len(s.Services))
			}
		}
		if len(applied) > 2 {
			t.Errorf("applied %d times", len(applied))
		}
	})
}

// What cannot be stored is in force all the same, and said after a second.
func TestRuntimeNotStored(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := configOf(service("web", 1))
	cfg.StateDir = filepath.Join(file, "below") // there can be no such directory
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		result, err := r.Edit(t.Context(), commandsOf(t, vipRules))
		if err != nil || !slices.ContainsFunc(result.Notes, func(n string) bool { return strings.Contains(n, "not stored: it will not survive") }) {
			t.Errorf("got %+v, %v", result.Notes, err)
		}
		r.wantServices("in force", "web; tcp-10-0-0-100-443 11*2 12*1")
	})
}
