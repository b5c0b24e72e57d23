package main

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
)

func TestSystemNames(t *testing.T) {
	asked := 0
	n := &systemNames{
		ports: ipvsadm.ParseServices(strings.NewReader("http 80/tcp")), left: resolveBudget, hosts: map[netip.Addr]string{},
		lookup: func(_ context.Context, addr string) ([]string, error) {
			asked++
			switch addr {
			case "10.0.0.1":
				return []string{"web.example.", "other.example."}, nil
			case "10.0.0.2":
				return []string{"evil\x1b[2J.example."}, nil
			}
			return nil, errors.New("no such host")
		},
	}
	for range 2 {
		for addr, want := range map[string]string{"10.0.0.1": "web.example", "10.0.0.2": "", "10.0.0.3": ""} {
			if got := n.HostName(netip.MustParseAddr(addr)); got != want {
				t.Errorf("%s: got %q, want %q", addr, got, want)
			}
		}
	}
	if asked != 3 {
		t.Errorf("asked %d times for 3 addresses", asked)
	}
	if got := n.PortName(80, lb.TCP) + n.PortName(80, lb.UDP) + n.PortName(80, 0); got != "http" {
		t.Errorf("got %q", got)
	}
}

// A name server that does not answer costs a listing its budget once, not once
// for every address.
func TestSystemNamesBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &systemNames{left: resolveBudget, hosts: map[netip.Addr]string{}, lookup: func(ctx context.Context, _ string) ([]string, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		start := time.Now()
		for i := range 200 {
			if got := n.HostName(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})); got != "" {
				t.Errorf("got %q", got)
			}
		}
		if took := time.Since(start); took != resolveBudget {
			t.Errorf("took %v, want %v", took, resolveBudget)
		}
	})
}

func TestNewSystemNames(t *testing.T) {
	n := newSystemNames()
	if n.left != resolveBudget || n.lookup == nil || n.hosts == nil {
		t.Errorf("%+v", n)
	}
}
