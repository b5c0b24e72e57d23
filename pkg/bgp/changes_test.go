package bgp

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChangesAreToldOnce(t *testing.T) {
	router := netip.MustParseAddr("192.0.2.254")
	look := func(isUp bool, reason string, vips ...Decision) Status {
		return Status{Peers: []PeerStatus{{Peer: router, IsUp: isUp, Reason: reason}}, VIPs: vips}
	}
	hook := func(reason string) Status { return Status{Hook: []HookStatus{{Name: "program /a", Reason: reason}}} }
	announced := Decision{Addr: vip, IsAnnounced: true}
	draining := Decision{Addr: vip, IsAnnounced: true, IsDraining: true}
	held := Decision{Addr: vip, Reason: "no quorum"}
	drained := Decision{Addr: vip, IsDraining: true, Reason: "drained"}
	for _, test := range []struct {
		name          string
		before, after Status
		want          []Change
	}{
		{"the first look at what is down", Status{}, look(false, "not started", held), nil},
		{"a session", look(false, "x"), look(true, ""), []Change{{"router 192.0.2.254", "session up"}}},
		{"its end", look(true, ""), look(false, "silent"), []Change{{"router 192.0.2.254", "session down: silent"}}},
		{"another reason is no change", look(false, "a"), look(false, "b"), nil},
		{"announced", look(true, "", held), look(true, "", announced), []Change{{"VIP 192.0.2.100", "announced"}}},
		{"draining", look(true, "", announced), look(true, "", draining), []Change{{"VIP 192.0.2.100", "announced as a path to avoid"}}},
		{"and no longer", look(true, "", draining), look(true, "", announced), []Change{{"VIP 192.0.2.100", "announced"}}},
		{"withdrawn", look(true, "", draining), look(true, "", drained), []Change{{"VIP 192.0.2.100", "withdrawn: drained"}}},
		{"still withdrawn", look(true, "", drained), look(true, "", held), nil},
		{"gone from the file", look(true, "", announced), look(true, ""), []Change{{"VIP 192.0.2.100", "withdrawn: no longer configured"}}},
		{"a hook fails", hook(""), hook("exit status 1"), []Change{{"program /a", "not told what to announce: exit status 1"}}},
		{"and again", hook("exit status 1"), hook("exit status 2"), nil},
		{"and works", hook("exit status 1"), hook(""), []Change{{"program /a", "told what to announce"}}},
		{"nothing", look(true, "", announced), look(true, "", announced), nil},
	} {
		if diff := cmp.Diff(test.want, Changes(test.before, test.after)); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
}

func TestWithdrawnWhateverServes(t *testing.T) {
	p := &Policy{}
	in := Input{VIPs: []VIP{{Addr: vip, IsServing: true}}, IsReady: true}
	if d := p.Decide(moment, in)[0]; !d.IsAnnounced {
		t.Errorf("before: %+v", d)
	}
	in.IsDraining, in.Withdrawn = false, "drained"
	if d := p.Decide(moment, in)[0]; d.IsAnnounced || d.Reason != "drained" {
		t.Errorf("drained: %+v", d)
	}
	in.Withdrawn = ""
	if d := p.Decide(moment, in)[0]; !d.IsAnnounced {
		t.Errorf("at once again: an operator's withdrawal is no flap: %+v", d)
	}
}
