package main

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/lb"
)

func readTestdata(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestParseServices(t *testing.T) {
	got := parseServices(strings.NewReader(`# comment
http		80/tcp		www		# WorldWideWeb HTTP
www2 80/tcp
domain 53/udp
ssh 22/tcp#no space
short
nothing x/tcp
big 65536/tcp
noproto 80
  indented  7/udp
` + "h\x1b[31m 6/tcp\n"))
	want := servicePorts{{80, "tcp"}: "http", {53, "udp"}: "domain", {22, "tcp"}: "ssh", {7, "udp"}: "indented", {6, "tcp"}: ""}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(servicePort{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func FuzzParseServices(f *testing.F) {
	f.Add("http\t80/tcp\twww # WorldWideWeb HTTP\n")
	f.Add("a 1/udp\nb 1/udp") // two names for one port
	f.Fuzz(func(t *testing.T, text string) {
		for k, name := range parseServices(strings.NewReader(text)) {
			if printable(name) != name || strings.ContainsAny(k.proto, " \t#") {
				t.Errorf("%v: %q", k, name)
			}
		}
	})
}

func TestSystemNames(t *testing.T) {
	asked := 0
	n := &systemNames{
		services: servicePorts{{80, "tcp"}: "http"}, left: resolveBudget, hosts: map[netip.Addr]string{},
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
			if got := n.host(netip.MustParseAddr(addr)); got != want {
				t.Errorf("%s: got %q, want %q", addr, got, want)
			}
		}
	}
	if asked != 3 {
		t.Errorf("asked %d times for 3 addresses", asked)
	}
	if got := n.service(80, lb.TCP) + n.service(80, lb.UDP) + n.service(80, 0); got != "http" {
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
			if got := n.host(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})); got != "" {
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
