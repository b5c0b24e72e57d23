package lbtest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

func TestFake(t *testing.T) {
	Run(t, func(*testing.T) Harness { return NewFake() })
}

func TestFakeErrors(t *testing.T) {
	f, boom := NewFake(), errors.New("boom")
	f.Fail(boom)
	if err := f.Apply(context.Background(), lb.State{ExpireNodestConn: true}); !errors.Is(err, boom) {
		t.Errorf("apply: got %v", err)
	}
	f.Fail(nil)
	if err := f.Apply(context.Background(), lb.State{ExpireNodestConn: true}); err != nil {
		t.Errorf("apply: %v", err)
	}
	if n := len(f.Applied()); n != 1 {
		t.Errorf("%d states applied, want 1", n)
	}
	_ = f.Close(true)
	if closed, kept := f.Closed(); !closed || !kept {
		t.Errorf("closed %v, kept %v", closed, kept)
	}
	if err := f.Apply(context.Background(), lb.State{ExpireNodestConn: true}); err == nil {
		t.Error("apply on a closed backend succeeded")
	}
}

func TestFakeUnresolved(t *testing.T) {
	f := NewFake()
	b := &bench{T: t, h: f}
	b.apply(state(service(lb.RR, reals(1, 1)...)))
	f.Unresolve(server(2, 1).Addr, "no MAC")
	b.want("real 2 without MAC", b.conns(2, web), "1 1")
	o, _ := f.Observed()
	if r := o.Services[0].Reals[1]; r.Usable || r.Reason != "no MAC" || r.Weight != 1 {
		t.Errorf("observed %+v", r)
	}
	f.Unresolve(server(2, 1).Addr, "")
	if got := b.conns(2, web); got != "1 2" && got != "2 1" {
		t.Errorf("real 2 with MAC: %s", got)
	}
}

// The fake keeps the kernel's timeouts, so that tests of longer stories can
// rely on it.
func TestFakeTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, h: NewFake()}
		b.apply(state(persistent(0)))
		src, to := b.established(client, web)
		time.Sleep(899 * time.Second)
		b.want("before the timeout", b.send(lb.TCP, src, web, "A"), to)
		time.Sleep(901 * time.Second)
		b.want("after it", b.send(lb.TCP, src, web, "A"), "-")
		b.want("the template is gone, too", b.conns(1, web), "2")
	})
}

func TestFakeLeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFake()
		b := &bench{T: t, h: f}
		s := state(service(lb.RR, reals(1)...))
		s.VIPs = []lb.VIP{{Addr: vip, Owner: "VI_1", Leased: true, Lease: 1}}
		b.apply(s)
		_ = f.Renew(1, time.Second)
		b.want("leased", b.conns(1, web), "1")
		time.Sleep(time.Second)
		b.want("not renewed", b.conns(1, web), "-")
	})
}
