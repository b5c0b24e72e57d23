package realserver_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/neigh"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Of an IPv6 VIP no setting counts: what the client hears who asks for it is what
// status says.
func TestIPv6StatusJudgesWhatWorks(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	r := real{c.Host("r1"), filepath.Join(c.Host("r1").Dir(), "real.json")}
	client := c.Host("client")
	for h, a := range map[*testenv.Host]string{r.Host: "fd99::12/64", client: "fd99::50/64"} {
		noError(t, h.Sysctl("net.ipv6.conf.eth0.disable_ipv6", "0"))
		noError(t, h.AddAddr("eth0", netip.MustParsePrefix(a)))
	}
	noError(t, r.Sysctl("net.ipv6.neigh.eth0.proxy_delay", "0")) // else a proxy answers up to 0.8 s later
	host := netip.PrefixFrom(vip6, 128)
	sysctl := func(value string, keys ...string) {
		for _, k := range keys {
			noError(t, r.Sysctl("net.ipv6.conf."+k, value))
		}
	}
	for _, step := range []struct {
		name  string
		do    func()
		fault string // "" = ready
	}{
		{"not there", func() {}, "on no interface"},
		{"on lo", func() { noError(t, r.AddAddr("lo", host)) }, ""},
		{"a router", func() { sysctl("1", "all.forwarding") }, ""},
		{"a proxy entry alone", func() { tb.Run(t, r.Host, "ip", "-6", "neigh", "add", "proxy", vip6.String(), "dev", "eth0") }, ""},
		{"a proxy", func() { sysctl("1", "eth0.proxy_ndp") }, "answered for on eth0 by proxy_ndp"},
		{"a proxy by all", func() { sysctl("0", "eth0.proxy_ndp"); sysctl("1", "all.proxy_ndp") }, "answered for on eth0 by proxy_ndp"},
		{"a proxy that does not forward", func() { sysctl("0", "all.forwarding") }, ""},
		{"on eth0 as well", func() { noError(t, r.AddAddr("eth0", host)) }, "also on eth0"},
		{"off eth0", func() { noError(t, r.DelAddr("eth0", host)) }, ""},
	} {
		step.do()
		st := r.status(t, vip6)
		if st.IsReady() != (step.fault == "") || !strings.Contains(fmt.Sprint(st.VIPs[0].Faults), step.fault) {
			t.Errorf("%s: %+v, want the fault %q", step.name, st, step.fault)
		}
		if got := st.VIPs[0].Interface; got != "eth0" {
			t.Errorf("%s: the VIP faces %q", step.name, got)
		}
		var owners []neigh.MAC
		noError(t, client.Do(func() (err error) { owners, err = neigh.FindOwners(t.Context(), "eth0", vip6); return err }))
		if hears := len(owners) > 0; hears && step.fault == "" || !hears && step.fault != "" && step.name != "not there" {
			t.Errorf("%s: the client hears %v", step.name, owners)
		}
	}
}
