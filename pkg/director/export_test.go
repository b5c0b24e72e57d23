package director

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/config"
)

const exported = `# the shop
interface: eth0
services:
  - name: web
    listen: ["10.0.0.100:80/tcp"]
    scheduler: rr
    quorum: 2
    reals:
      - {address: 10.0.0.11} # the old one
      - {address: 10.0.0.12, weight: 2}
`

// What is exported, put into the file's place and reloaded, changes nothing.
func TestExport(t *testing.T) {
	text := exported
	load := func() *config.Config {
		cfg, err := config.Parse("lvx.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		cfg.StateDir = "" // the test's, not the host's
		return cfg
	}
	inBubble(t, load(), func(t *testing.T, r *rig) {
		r.Director.opt.Text = func() []byte { return []byte(text) }
		r.next = load()
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.edit(vipRules + "-e -t 10.0.0.100:80 -r 10.0.0.11 -w 5\n-a -t 10.0.0.100:80 -r 10.0.0.19\n-A -f 7 -s rr\n--set 100 0 0")
		w := uint16(9)
		if _, err := r.SetWeight(t.Context(), "web", "10.0.0.12", &w); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Drain(t.Context(), "tcp-10-0-0-100-443", "10.0.0.22", DrainOptions{}); err != nil {
			t.Fatal(err)
		}
		before := r.state()
		out, err := r.Export(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{
			"# service mark-7 is not here: mark 7 has no listeners (no rule of the firewall sets it)", "# the shop",
			"      - {address: 10.0.0.11, weight: 5} # the old one", "      - {address: 10.0.0.12, weight: 9}",
			"      - {address: 10.0.0.19, weight: 1, forward: dr}",
			"      - {address: 10.0.0.22, weight: 0}", "timeouts: {tcp: 100s, tcp_fin: 120s, udp: 300s}",
		} {
			if !strings.Contains(out, line+"\n") {
				t.Errorf("no line %q in\n%s", line, out)
			}
		}
		only, err := r.Export(t.Context(), true)
		if err != nil || strings.Contains(only, "interface") || !strings.Contains(only, "name: tcp-10-0-0-100-443") {
			t.Errorf("runtime only: %v\n%s", err, only)
		}
		if !strings.Contains(only, "quorum: 2") || strings.Contains(only, "timeouts:") {
			t.Errorf("runtime only, of a service of the file:\n%s", only)
		}
		r.Director.text = nil
		converted, err := r.Export(t.Context(), true)
		if want := "# service web is here without what ipvsadm does not know of it (checks, hooks, quorum, clients, sorry server)\n"; err != nil || !strings.Contains(converted, want) {
			t.Errorf("runtime only, where the configuration is no lvx.yaml: %v\n%s", err, converted)
		}
		text = out
		r.next = load()
		applied := len(r.backend.Applied())
		if _, err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(r.backend.Applied()) - applied; n != 0 {
			t.Errorf("the exported file wrote to the backend %d times (want none)", n)
		}
		if diff := cmp.Diff(before, r.state(), compareAddrs); diff != "" {
			t.Errorf("-before +after:\n%s", diff)
		}
		if n := r.runtime.Changes(); n != 1 { // mark 7, which the file cannot have
			t.Errorf("%d changes are left in the layer: %+v", n, r.runtime)
		}
	})
}
