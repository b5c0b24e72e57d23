package director

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lvx-lb/lvx/internal/jsonfile"
	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// The limit of time is the disk's, not that of a processor which has much to understand.
func TestNoteThatTakesLongToUnderstand(t *testing.T) {
	cfg := configOf()
	cfg.StateDir = t.TempDir()
	if err := os.WriteFile(filepath.Join(cfg.StateDir, runtimeFile), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		got := readNote(New(Options{Config: cfg}), runtimeFile, func(text []byte) (string, error) {
			time.Sleep(time.Minute)
			return string(text), nil
		})
		if got != "text" {
			t.Errorf("read %q", got)
		}
	})
}

// As many reals as the packet path has room for, each of a service of its own, whose
// counters were zeroed, are a layer that is read again.
func TestTheLargestLayerIsRead(t *testing.T) {
	const reals = 131072 // REALS in bpf/types.h
	address := netip.MustParseAddr("2001:db8:1111:2222:3333:4444:5555:6666")
	large := lb.Counters{Conns: 1e12, InPkts: 1e15, InBytes: 1e18}
	s := RuntimeService{Name: "tcp-2001-db8-1111-2222-3333-4444-5555-6666-10000"}
	s.Key = ipvsadm.Key{Proto: lb.TCP, Addr: address, Port: 10000}
	s.Scheduler, s.Persistent, s.Prefix = "wlc", 360, 64
	s.Servers = []ipvsadm.Server{{Addr: address, Port: 10000, Weight: 65535, Forward: lb.Tunnel}}
	layer := Runtime{Services: []RuntimeService{s}, Zeroed: []ZeroedService{
		{Name: s.Name, Counters: large, Reals: []ZeroedReal{{netip.AddrPortFrom(address, 0), large}}},
	}}
	text, err := json.MarshalIndent(layer, "", "  ")
	if err != nil || len(text)*reals > jsonfile.MaxSize {
		t.Errorf("%d bytes of %d services, %v", len(text)*reals, reals, err)
	}
}
