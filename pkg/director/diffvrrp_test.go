package director

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/vrrp"
)

func TestDiffVRRP(t *testing.T) {
	first := netip.MustParsePrefix("10.0.0.100/24")
	old := []vrrp.Instance{{Name: "VI_1", VRID: 51, Priority: 100, AuthPass: "secret1", Addresses: []netip.Prefix{first}}, {Name: "VI_2", VRID: 52, Priority: 100}}
	for name, c := range map[string]struct {
		edit func(list []vrrp.Instance) []vrrp.Instance
		want []string
	}{
		"nothing": {func(list []vrrp.Instance) []vrrp.Instance { return list }, nil},
		"removed": {func(list []vrrp.Instance) []vrrp.Instance { return list[:1] }, []string{"remove vrrp VI_2"}},
		"renamed": {func(list []vrrp.Instance) []vrrp.Instance { list[1].Name = "B"; return list }, []string{"add vrrp B: virtual_router_id 52, priority 100", "remove vrrp VI_2"}},
		"order":   {func(list []vrrp.Instance) []vrrp.Instance { slices.Reverse(list); return list }, []string{"vrrp: another order"}},
		"values": {func(list []vrrp.Instance) []vrrp.Instance {
			list[0].Priority, list[0].PreemptDelay, list[0].SyncGroup, list[0].AuthPass = 150, time.Minute, "G", "secret2"
			list[0].Source = netip.MustParseAddr("10.0.0.9")
			return list
		}, []string{"vrrp VI_1: priority 100 -> 150, auth_pass changed, preempt_delay 0s -> 1m0s, unicast_source none -> 10.0.0.9, sync_group none -> G"}},
		"addresses": {func(list []vrrp.Instance) []vrrp.Instance {
			list[0].Addresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.101/24")}
			return list
		}, []string{"vrrp VI_1: addresses: add 10.0.0.101/24, remove 10.0.0.100/24"}},
	} {
		if got := diffVRRP(old, c.edit(slices.Clone(old))); !slices.Equal(got, c.want) || strings.Contains(strings.Join(got, ""), "secret") {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// Whatever can change in an instance has its key in the line.
func TestDiffKnowsEveryKeyOfVRRP(t *testing.T) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[vrrp.Instance]()) {
		if f.Name != "Name" && vrrpKeys[f.Name] == "" {
			t.Errorf("vrrpKeys has nothing for %s", f.Name)
		}
	}
}
