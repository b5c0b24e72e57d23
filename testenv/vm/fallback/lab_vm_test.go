//go:build ipvsvm

package fallback

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// patience bounds every wait for something that must come: emulated, lvx
// takes its time to load the packet path.
const patience = 3 * time.Minute

// The daemon, and the examples of docs, where the lane puts them.
const (
	lvxBinary = "/t/lvx"
	examples  = "/t/examples"
)

// A lab is a network with one director.
type lab struct {
	*testing.T
	director, client *testenv.Host
	hosts            *testenv.Cluster
	daemon           *testenv.Process
	body             string
}

func newLab(t *testing.T, o testenv.Options) *lab {
	c := tb.New(t, o)
	l := &lab{T: t, hosts: c, director: c.Host("director"), client: c.Host("client")}
	for _, name := range []string{"rs1", "rs2"} {
		if _, err := c.Host(name).ServeWeb(); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func nic(sw, addr string) testenv.NIC {
	return testenv.NIC{Switch: sw, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}, XDPPeer: true, FullChecksum: true}
}

// natLab is the article's first network: the reals are behind the director.
func natLab(t *testing.T) *lab {
	inside := netip.MustParseAddr("192.168.79.7")
	return newLab(t, testenv.Options{Hosts: []testenv.HostSpec{
		{Name: "client", NICs: []testenv.NIC{nic("wan", "172.16.0.57/16")}},
		{Name: "director", NICs: []testenv.NIC{nic("wan", "172.16.0.7/16"), nic("lan", "192.168.79.7/24")}},
		{Name: "rs1", NICs: []testenv.NIC{nic("lan", "192.168.79.27/24")}, Gateway: inside},
		{Name: "rs2", NICs: []testenv.NIC{nic("lan", "192.168.79.37/24")}, Gateway: inside},
	}})
}

// vip is the address of the article's second network.
const (
	vip = "192.168.79.99"
	url = "http://" + vip
)

// drLab is the second network: one segment, the reals have the VIP too.
func drLab(t *testing.T) *lab {
	l := newLab(t, testenv.Options{Hosts: []testenv.HostSpec{
		{Name: "client", NICs: []testenv.NIC{nic("lan", "192.168.79.50/24")}},
		{Name: "director", NICs: []testenv.NIC{nic("lan", "192.168.79.7/24")}},
		{Name: "rs1", NICs: []testenv.NIC{nic("lan", "192.168.79.27/24")}},
		{Name: "rs2", NICs: []testenv.NIC{nic("lan", "192.168.79.37/24")}},
	}})
	for _, name := range []string{"rs1", "rs2"} {
		h := l.hosts.Host(name)
		tb.Run(t, h, lvxBinary, "real", "up", "--vip", vip, "--state", filepath.Join(h.Dir(), "real.json"))
	}
	return l
}

// example reads an example of docs.
func example(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(examples, name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// run starts the daemon, or lets it read another file.
func (l *lab) run(body string) {
	l.Helper()
	l.body = body
	d := l.director
	head := fmt.Sprintf("pin_dir: %s\nstate_dir: %s\nadmin: {socket: %s}\n", d.PinDir(), d.Dir(), l.socket())
	file := filepath.Join(d.Dir(), "lvx.yaml")
	if err := os.WriteFile(file, []byte(head+body), 0o600); err != nil {
		l.Fatal(err)
	}
	if l.daemon != nil {
		l.lvx("reload")
		return
	}
	l.daemon = tb.Start(l, d, lvxBinary, "run", "-c", file)
	tb.Eventually(l, patience, func() error {
		_, err := d.Run(l.Context(), lvxBinary, "status", "--socket", l.socket())
		return err
	})
}

// edit changes words of the file and reads it again.
func (l *lab) edit(oldnew ...string) {
	l.Helper()
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(l.body, oldnew[i]) {
			l.Fatalf("no %q in the file:\n%s", oldnew[i], l.body)
		}
	}
	l.run(strings.NewReplacer(oldnew...).Replace(l.body))
}

func (l *lab) socket() string { return filepath.Join(l.director.Dir(), "lvx.sock") }

func (l *lab) lvx(args ...string) string {
	l.Helper()
	return tb.Run(l, l.director, append(append([]string{lvxBinary}, args...), "--socket", l.socket())...)
}

// curl asks a URL n times and gives the names of those who answered.
func (l *lab) curl(n int, url string) string {
	l.Helper()
	var names []string
	for range n {
		out, err := l.client.Run(l.Context(), "curl", "-s", "-S", "-m", "60", url)
		switch {
		case err == nil:
			names = append(names, strings.TrimSpace(out))
		case strings.Contains(err.Error(), "(7)"): // curl: (7) Failed to connect
			names = append(names, "refused")
		default:
			l.Fatal(err)
		}
	}
	return strings.Join(names, " ")
}

func (l *lab) want(what, got, want string) {
	l.Helper()
	if got != want {
		l.Errorf("%s: %s, want %s\n%s", what, got, want, l.lvx("list", "-n"))
	}
}

// contains wants lines in a text; blanks are taken as one.
func (l *lab) contains(text string, lines ...string) {
	l.Helper()
	squeezed := ""
	for line := range strings.Lines(text) {
		squeezed += strings.Join(strings.Fields(line), " ") + "\n"
	}
	for _, line := range lines {
		if !strings.Contains(squeezed, line) {
			l.Errorf("no %q in:\n%s", line, text)
		}
	}
}

// places says for each service where it runs and why: "web: ipvs, forward nat".
func (l *lab) places() map[string]string {
	l.Helper()
	var st struct {
		Services []struct {
			Name    string
			Backend string
			Reason  string `json:"backend_reason"`
		}
	}
	if err := json.Unmarshal([]byte(l.lvx("status", "--json")), &st); err != nil {
		l.Fatal(err)
	}
	places := map[string]string{}
	for _, s := range st.Services {
		places[s.Name] = strings.TrimSuffix(s.Backend+": "+s.Reason, ": ")
	}
	return places
}
