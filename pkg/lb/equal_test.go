package lb_test

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// A field that Equal forgot would be a change that never comes into force.
func TestEqualSeesEveryField(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.1")
	prefixes := []netip.Prefix{netip.PrefixFrom(addr, 32)}
	service := lb.Service{
		Name: "a", Mark: 1, Scheduler: lb.RR, Flags: 1, OnePacket: true, Stateless: true, Persistence: lb.Persistence{Timeout: time.Second},
		Listeners: []lb.Listener{{Addr: addr}}, Reals: []lb.Real{{Addr: addr}}, Absent: []lb.Real{{Addr: addr}}, Sorry: addr, SorryPort: 1, SorryForward: lb.NAT, SorryEncap: lb.Encap{Kind: lb.GUE}, SorryInhibit: true,
		Deny: prefixes, Allow: prefixes, Condition: "from a network",
	}
	state := lb.State{
		Services: []lb.Service{service}, Timeouts: lb.Timeouts{TCP: time.Second}, SloppyTCP: true, ExpireNodestConn: true, ExpireQuiescentTempl: true,
		Deny: prefixes, Allow: prefixes, OuterSources: prefixes, Peers: []netip.Addr{addr}, VIPs: []lb.VIP{{Addr: addr}},
	}
	seesEveryField(t, service, func(o lb.Service) bool { return service.Equal(&o) })
	seesEveryField(t, state, func(o lb.State) bool { return state.Equal(&o) })
	other := state.Clone()
	if !state.Equal(&other) {
		t.Error("a state and its copy are not equal")
	}
	other.Services[0].Reals[0].Weight++
	if state.Equal(&other) {
		t.Error("a real's weight does not count")
	}
}

// seesEveryField wants a value to differ as soon as one field of it is zero.
func seesEveryField[T any](t *testing.T, full T, isEqual func(T) bool) {
	t.Helper()
	if !isEqual(full) {
		t.Errorf("a %T is not equal to itself", full)
	}
	of := reflect.TypeOf(full)
	for i := range of.NumField() {
		other := full
		v := reflect.ValueOf(&other).Elem().Field(i)
		if v.IsZero() {
			t.Errorf("the test does not set %s", of.Field(i).Name)
		}
		v.SetZero()
		if isEqual(other) {
			t.Errorf("%s of %T does not count", of.Field(i).Name, full)
		}
	}
}
