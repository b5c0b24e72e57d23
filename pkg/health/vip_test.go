package health

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

func TestReasonsOfTheVIP(t *testing.T) {
	ok := func(context.Context) error { return nil }
	hang := func(ctx context.Context) error {
		<-ctx.Done()
		return stageFailure("tcp connect", ctx.Err())
	}
	refused := func(context.Context) error { return stageFailure("tcp connect", syscall.ECONNREFUSED) }
	unreachable := func(context.Context) error { return stageFailure("tcp connect", syscall.EHOSTUNREACH) }
	status := func(context.Context) error { return errors.New("http GET /: 503 (want 200-299)") }
	noPort := func(context.Context) error { return stageFailure("tcp connect", syscall.EADDRNOTAVAIL) }
	for _, tc := range []struct {
		name        string
		via, direct func(context.Context) error
		want        string
	}{
		{"all is well", ok, hang, ""},
		{"no VIP", hang, ok, "connects on 192.0.2.1 but not through VIP 192.0.2.100: is the VIP on lo?"},
		{"no VIP, and the real says so", unreachable, ok, "connects on 192.0.2.1 but not through VIP 192.0.2.100: is the VIP on lo?"},
		{"own address only", refused, ok, "connects on 192.0.2.1 but refuses VIP 192.0.2.100: is the service bound to its own address only?"},
		{"service down", refused, refused, "tcp connect: refused"},
		{"service down, no VIP", hang, refused, "tcp connect: refused"},
		{"host down", hang, hang, "tcp connect: timeout after 40ms"},
		{"another site on the VIP", status, ok, "http GET /: 503 (want 200-299), through VIP 192.0.2.100 (passes on 192.0.2.1)"},
		{"bad everywhere", status, status, "http GET /: 503 (want 200-299)"},
		{"no port here", noPort, ok, "tcp connect: not asked: cannot assign requested address"},
		{"no port for the comparison", hang, noPort, "tcp connect: timeout after 40ms"},
	} {
		released := 0
		c := &vipChecker{
			target:  Target{Spec: Spec{Type: HTTP, Timeout: 40 * time.Millisecond}, Real: netip.MustParseAddr("192.0.2.1"), VIP: netip.MustParseAddr("192.0.2.100")},
			direct:  checkFunc(tc.direct),
			through: checkFunc(tc.via),
			release: func() { released++ },
		}
		got := ""
		if err := c.Check(t.Context()); err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
		c.Close()
		if released != 1 {
			t.Errorf("%s: released %d times", tc.name, released)
		}
	}
}

type checkFunc func(context.Context) error

func (f checkFunc) Check(ctx context.Context) error { return f(ctx) }

// paths counts what is open.
type paths struct {
	open, opened int
	err          error
}

func (p *paths) Open(netip.Addr, netip.Addr, lb.Forward, lb.Encap) (uint32, func(), error) {
	if p.err != nil {
		return 0, nil, p.err
	}
	p.open++
	p.opened++
	return 0, func() { p.open-- }, nil
}

// The path is opened by the first check, kept while checks pass, opened anew
// after a failure, and given back by Close.
func TestPathIsOpenedAndReleased(t *testing.T) {
	p := &paths{err: errors.New("no route")}
	port := nameServer(t, func(q []byte) [][]byte { return [][]byte{q} })
	tgt := Target{
		Spec: Spec{Type: UDP, Send: "ping", Expect: "ping", Timeout: time.Minute},
		Real: netip.MustParseAddr("127.0.0.1"), Port: port, VIP: netip.MustParseAddr("192.0.2.100"),
	}
	c, err := New(tgt, WithPath(p))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context()); !errors.Is(err, ErrNotAsked) || err.Error() != "path to VIP 192.0.2.100: not asked: no route" {
		t.Errorf("no path: %v", err)
	}
	p.err = nil
	for range 3 {
		if err := c.Check(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if p.open != 1 || p.opened != 1 {
		t.Errorf("after three passes: %+v", p)
	}
	closeChecker(c)
	closeChecker(c)
	if p.open != 0 {
		t.Errorf("after Close: %+v", p)
	}
	tgt.Spec.Expect = "pong"
	if c, err = New(tgt, WithPath(p)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := c.Check(t.Context()); err == nil {
			t.Error("passed")
		}
	}
	if p.open != 0 || p.opened != 4 {
		t.Errorf("after three failures: %+v", p)
	}
}

func TestThroughVIP(t *testing.T) {
	for s, want := range map[Spec]bool{
		{Type: TCP}: true, {Type: HTTP}: true, {Type: HTTPS}: true, {Type: DNS}: true, {Type: ICMP}: true,
		{Type: UDP}: false, {Type: UDP, Send: "x"}: true, {Type: UDP, Expect: "x"}: true, {Type: Exec}: false,
	} {
		if got := ThroughVIP(s); got != want {
			t.Errorf("%+v: %v", s, got)
		}
	}
}
