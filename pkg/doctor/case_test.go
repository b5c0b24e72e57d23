package doctor

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/neigh"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// What another host answers for a VIP that has just been taken over is the end of its
// own time as master.
func TestAVIPIsHadOnceItsRoleIsSettled(t *testing.T) {
	now := time.Unix(1000, 0)
	alone, shared := netip.MustParseAddr("10.0.0.100"), netip.MustParseAddr("10.0.0.101")
	for name, c := range map[string]struct {
		since          time.Duration
		held           bool
		has, isSettled bool
	}{
		"master for long":    {time.Minute, true, true, true},
		"master since now":   {time.Second, true, false, false},
		"backup for long":    {time.Minute, false, false, true},
		"backup since now":   {time.Second, false, false, false},
		"master long enough": {SettleTime, true, true, true},
		"the clock was set":  {-time.Second, true, true, true},
	} {
		st := director.Status{
			VRRP: []director.VRRPStatus{{Instance: "VI_1", Since: now.Add(-c.since)}},
			VIPs: []director.VIPStatus{{Addr: alone, Held: true}, {Addr: shared, Held: c.held, Instance: "VI_1"}},
		}
		got := NewCase(&config.Config{}, st, now)
		if !got.Has(alone) || got.Has(shared) != c.has || got.IsSettled != c.isSettled {
			t.Errorf("%s: has %v and %v, settled %v", name, got.Has(alone), got.Has(shared), got.IsSettled)
		}
	}
}

// A director that is a real server by both families is known as a director, by the file
// or by its adverts.
func TestDirectorsThatAreReals(t *testing.T) {
	four, six, heard := netip.MustParseAddr("10.0.0.20"), netip.MustParseAddr("2001:db8::20"), netip.MustParseAddr("10.0.0.30")
	mac := "02:00:00:00:00:20"
	st := director.Status{
		VRRP: []director.VRRPStatus{{Peers: []director.VRRPPeer{{Addr: heard}}}},
		Services: []director.ServiceStatus{
			{Reals: []director.RealStatus{{Addr: four, MAC: mac}}}, {Reals: []director.RealStatus{{Addr: six, MAC: mac}}},
		},
	}
	got := NewCase(&config.Config{VRRP: []vrrp.Instance{{UnicastPeers: []netip.Addr{four}}}}, st, time.Time{})
	if !slices.Equal(got.Directors, []netip.Addr{four, heard}) || got.MACs[neigh.MAC{2, 0, 0, 0, 0, 0x20}] != four {
		t.Errorf("directors %v, MACs %v", got.Directors, got.MACs)
	}
}
