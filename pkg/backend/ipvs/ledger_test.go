package ipvs

import (
	"log/slog"
	"testing"

	"github.com/cloudflare/ipvs"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// TestLedgerOfAnotherBoot: with the kernel ends what a backend had in it. A service that
// is there after that is somebody else's, and so are sysctls and timeouts.
func TestLedgerOfAnotherBoot(t *testing.T) {
	dir, k := t.TempDir(), newFakeKernel()
	open := func(boot string) *Backend {
		o := Options{StateDir: dir, Boot: boot, Log: slog.New(slog.DiscardHandler), Report: func(err error) { t.Error(err) }}
		return newBackend(o, k, fakeFirewall{k}, fakeKnobs{k}, nil)
	}
	first := open("first")
	nat := named("nat", web(reals(1), "10.0.0.100:25/tcp"))
	nat.Reals[0].Forward = lb.NAT
	apply(t, first, state(web(reals(1)), nat))
	if err := first.Close(true); err != nil { // the machine loses its power
		t.Fatal(err)
	}
	k = newFakeKernel()
	k.sysctl["ipv4/ip_forward"], k.config.UDPTimeout = "1", 77
	others := ipvs.Service{Address: vip, Port: 25, Protocol: ipvs.TCP, Family: ipvs.INET, Scheduler: "lc"}
	if err := k.CreateService(others); err != nil {
		t.Fatal(err)
	}
	second := open("second")
	apply(t, second, state(web(reals(1))))
	equalText(t, "beside somebody else's service", k.table(), "TCP 10.0.0.100:25 lc:\nTCP 10.0.0.100:80 rr: 10.0.0.11*1")
	if err := second.Close(false); err != nil {
		t.Fatal(err)
	}
	equalText(t, "at the end", k.table(), "TCP 10.0.0.100:25 lc:")
	if k.sysctl["ipv4/ip_forward"] != "1" || k.config.UDPTimeout != 77 {
		t.Errorf("sysctls %v, timeouts %+v are those of the boot before", k.sysctl, k.config)
	}
}

func TestLeftover(t *testing.T) {
	dir := t.TempDir()
	if Leftover(dir) {
		t.Error("of an empty directory")
	}
	k := newBookkeeper(dir, func(err error) { t.Error(err) })
	if err := k.put(ledger{}); err != nil {
		t.Fatal(err)
	}
	k.close()
	if !Leftover(dir) {
		t.Error("not seen")
	}
	k = newBookkeeper(dir, func(err error) { t.Error(err) })
	k.keeper.Clear()
	k.close()
	if Leftover(dir) {
		t.Error("left after its removal")
	}
}
