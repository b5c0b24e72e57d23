package daemon

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// The VIP of a virtual router that a reload renumbers, renames, or takes away and
// brings back, is served all the time.
func TestReloadOfAVirtualRouter(t *testing.T) {
	line := "  - {name: VI_1, interface: eth0, virtual_router_id: 51,"
	for name, steps := range map[string][]string{
		"renumbered": {"  - {name: VI_1, interface: eth0, virtual_router_id: 52,"},
		"renamed":    {"  - {name: VI_2, interface: eth0, virtual_router_id: 51,"},
		"back":       {"", line},
	} {
		t.Run(name, func(t *testing.T) {
			w := newDirector(t, tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1}).Host("d1"))
			text, err := os.ReadFile(w.file)
			if err != nil {
				t.Fatal(err)
			}
			w.start(t)
			defer w.stop(t)
			client := admin.NewClient(filepath.Join(w.Dir(), "lvx.sock"))
			verdict := func() string {
				e, err := client.Explain(t.Context(), lb.Packet{
					Proto: lb.TCP, Src: netip.MustParseAddrPort("172.25.0.50:4000"), Dst: netip.MustParseAddrPort("172.25.0.101:80"),
				})
				if err != nil {
					t.Fatal(err)
				}
				return e.Verdict
			}
			tb.Eventually(t, time.Minute, func() error {
				if v := verdict(); v == "standby" || v == "lease_over" {
					return fmt.Errorf("before: %s", v)
				}
				return nil
			})
			for _, to := range steps {
				changed := strings.Replace(string(text), line, to, 1)
				if to == "" {
					changed = changed[:strings.Index(changed, "vrrp:")]
				}
				if err := os.WriteFile(w.file, []byte(changed), 0o600); err != nil {
					t.Fatal(err)
				}
				if r, err := client.Reload(t.Context()); err != nil {
					t.Fatalf("%v %+v", err, r)
				}
				time.Sleep(20 * time.Millisecond)
			}
			seen := map[string]int{}
			for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
				seen[verdict()]++
			}
			if seen["standby"] > 0 || seen["lease_over"] > 0 {
				t.Errorf("packets were met by %v, at last %s\n%s", seen, verdict(), w.p.Output())
			}
			t.Log(seen)
			if _, has := w.hasVIPs(t); !has {
				t.Error("the VIP is gone")
			}
		})
	}
}
