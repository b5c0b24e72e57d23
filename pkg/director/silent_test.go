package director

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// served is what the host was asked to be a silent real of since the last
// time.
func (f *fakeSilent) served() [][]SilentVIP {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

// shared is a configuration whose VIPs are VRRP's.
func shared(svcs ...config.Service) *config.Config {
	cfg := configOf(svcs...)
	cfg.VRRP = []vrrp.Instance{{
		Name: "VI_1", Interface: "eth1", VRID: 51,
		Addresses: []netip.Prefix{netip.PrefixFrom(vip, 24), netip.MustParsePrefix("10.0.0.177/24")},
	}}
	return cfg
}

// A director that is a real of a service is told to hold the VIP silently,
// as soon as that is known and as long as it is so.
func TestDirectorThatIsARealServer(t *testing.T) {
	cfg := shared(service("web", 1, 1))
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, cfg)
		r.neigh.self, r.neigh.blind = server(2), true
		go func() { _ = r.Director.Run(t.Context()) }()
		<-r.Ready()
		expect := func(what string, want ...[]SilentVIP) {
			t.Helper()
			synctest.Wait()
			if d := cmp.Diff(want, r.silence.served(), cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})); d != "" {
				t.Errorf("%s (-want +got):\n%s", what, d)
			}
		}
		mine := []SilentVIP{{vip, "eth1"}}
		expect("while it is not known which reals are this host")
		r.neigh.mu.Lock()
		r.neigh.blind = false
		r.neigh.mu.Unlock()
		r.neigh.changed <- struct{}{}
		expect("now it is", mine)
		if err := r.Activate("VI_1"); err != nil {
			t.Fatal(err)
		}
		expect("a role changes nothing")
		if st, err := r.Status(t.Context()); err != nil || !st.VIPs[0].Silent || st.VIPs[1].Silent {
			t.Errorf("status: %+v, %v", st.VIPs, err)
		}
		r.silence.fail(errors.New("read-only"))
		time.Sleep(driftInterval)
		expect("repair", mine)
		if st, err := r.Status(t.Context()); err != nil || st.VIPs[0].Silent || st.Fault != "" {
			t.Errorf("status of a failure: %+v, %q, %v", st.VIPs, st.Fault, err)
		}
		r.silence.fail(nil)
		time.Sleep(driftInterval)
		expect("repair after a failure", mine)

		r.next = shared(service("web", 1))
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		expect("no real any more", []SilentVIP(nil))
	})
}

// Loopback addresses are every host's, and VIPs that VRRP does not decide
// about are on the interface all the time.
func TestSilentVIPs(t *testing.T) {
	local := func(a netip.Addr) (is, known bool) { return a.IsLoopback() || a == server(1), true }
	loop := service("web", 1)
	loop.Reals[0].Addr = netip.MustParseAddr("127.0.0.1")
	for name, cfg := range map[string]*config.Config{
		"loopback": shared(loop), "no VRRP": configOf(service("web", 1)), "no service": shared(),
	} {
		if got, known := silentVIPs(cfg, local); len(got) > 0 || !known {
			t.Errorf("%s: %v, %v", name, got, known)
		}
	}
}
