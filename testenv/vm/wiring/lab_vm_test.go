//go:build ipvsvm

package wiring

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// patience bounds every wait for something that must come: emulated, lvx
// takes its time to load the packet path.
const patience = 3 * time.Minute

// lvxBinary is the daemon, where the lane puts it.
const lvxBinary = "/t/lvx"

// The addresses of every lab.
const (
	vip      = "192.168.79.99"
	vip6     = "fd79::99"
	client   = "192.168.79.50/24"
	director = "192.168.79.7/24"
)

// reals are the real servers and their addresses: on the clients' segment, and on
// one behind the director.
var (
	reals     = map[string]string{"rs1": "192.168.79.27/24", "rs2": "192.168.79.37/24"}
	backReals = map[string]string{"rs1": "10.79.0.27/24", "rs2": "10.79.0.37/24"}
)

// A lab is a director with a client and two reals on one segment.
type lab struct {
	*testing.T
	*testenv.Cluster
	file    string
	forward string // dr if it is ""
	hasIPv6 bool   // VLANs have addresses of both families, and the VIP serves both
}

// newLab makes the hosts; the director's NICs are given.
func newLab(t *testing.T, directors ...testenv.NIC) *lab {
	t.Helper()
	hosts := []testenv.HostSpec{{Name: "client", NICs: []testenv.NIC{nic("lan", client)}}, {Name: "director", NICs: directors}}
	for name, addr := range reals { // eth0 towards the clients, eth1 behind the director
		hosts = append(hosts, testenv.HostSpec{Name: name, NICs: []testenv.NIC{nic("lan", addr), nic("back", backReals[name])}})
	}
	l := &lab{T: t, Cluster: tb.New(t, testenv.Options{Hosts: hosts})}
	for name := range reals {
		h := l.Host(name)
		if _, err := h.ServeWeb(":80"); err != nil {
			t.Fatal(err)
		}
		tb.Run(t, h, lvxBinary, "real", "up", "--vip", vip, "--state", filepath.Join(h.Dir(), "real.json"))
	}
	return l
}

// addIPv6 has the VLANs that are made from now on, and the service, speak IPv6, too.
func (l *lab) addIPv6() {
	l.Helper()
	l.hasIPv6 = true
	for _, name := range []string{"client", "director", "rs1", "rs2"} {
		h := l.Host(name)
		for _, scope := range []string{"all", "default"} {
			if err := h.Sysctl("net.ipv6.conf."+scope+".disable_ipv6", "0"); err != nil {
				l.Fatal(err)
			}
		}
		if _, isReal := reals[name]; isReal {
			tb.Run(l, h, lvxBinary, "real", "up", "--vip", vip6, "--state", filepath.Join(h.Dir(), "real6.json"))
		}
	}
}

// six is the address of IPv6 beside one of IPv4: fd79::27/64 beside 192.168.79.27/24.
func six(addr string) string {
	p := netip.MustParsePrefix(addr)
	network := map[bool]string{true: "fd79::", false: "fd10::"}[p.Contains(netip.MustParseAddr(vip))]
	return fmt.Sprintf("%s%d/64", network, p.Addr().As4()[3])
}

// nic is a NIC with these addresses, on a switch whose port takes what XDP sends.
func nic(sw string, addrs ...string) testenv.NIC {
	n := testenv.NIC{Switch: sw, XDPPeer: true, FullChecksum: true}
	for _, a := range addrs {
		n.Addrs = append(n.Addrs, netip.MustParsePrefix(a))
	}
	return n
}

// ip runs commands of ip on a host, one in each line.
func (l *lab) ip(host, commands string) {
	l.Helper()
	for line := range strings.Lines(strings.TrimSpace(commands)) {
		tb.Run(l, l.Host(host), append([]string{"ip"}, strings.Fields(line)...)...)
	}
}

// serve starts the daemon with a service of these reals, until stop is called or the test
// ends.
func (l *lab) serve(head string, reals map[string]string) (stop func()) {
	l.Helper()
	var list, list6 []string
	for _, addr := range reals {
		list = append(list, "{address: "+strings.TrimSuffix(addr, "/24")+"}")
		list6 = append(list6, "{address: \""+strings.TrimSuffix(six(addr), "/64")+"\"}")
	}
	d := l.Host("director")
	l.file = filepath.Join(d.Dir(), "lvx.yaml")
	body := fmt.Sprintf("pin_dir: %s\nstate_dir: %s\nadmin: {socket: %s}\n%s\n", d.PinDir(), d.Dir(), l.socket(), head) +
		"services:\n  - {name: web, listen: [\"" + vip + ":80/tcp\"], scheduler: rr, forward: " + cmp.Or(l.forward, "dr") + ", reals: [" + strings.Join(list, ", ") + "]}\n"
	if l.hasIPv6 {
		body += "  - {name: web6, listen: [\"[" + vip6 + "]:80/tcp\"], scheduler: rr, reals: [" + strings.Join(list6, ", ") + "]}\n"
	}
	if err := os.WriteFile(l.file, []byte(body), 0o600); err != nil {
		l.Fatal(err)
	}
	p := tb.Start(l, d, lvxBinary, "run", "-c", l.file)
	l.Cleanup(func() { _ = p.Stop() })
	tb.Eventually(l, patience, func() error {
		select {
		case <-p.Done():
			return testenv.Final(fmt.Errorf("lvx run ended: %s", p.Output()))
		default:
		}
		_, err := d.Run(l.Context(), lvxBinary, "status", "--socket", l.socket())
		return err
	})
	return func() {
		if err := p.Stop(); err != nil {
			l.Fatal(err)
		}
	}
}

func (l *lab) socket() string { return filepath.Join(l.Host("director").Dir(), "lvx.sock") }

// lvx is what a command of lvx prints on the director, whatever its exit status.
func (l *lab) lvx(args ...string) string {
	l.Helper()
	out, err := l.Host("director").Run(l.Context(), append([]string{lvxBinary}, args...)...)
	if err != nil && out == "" {
		out = err.Error()
	}
	return out
}

func (l *lab) status() string { l.Helper(); return l.lvx("status", "--socket", l.socket()) }

// get asks a VIP once, and gives the name of the real that answers.
func (l *lab) get(url string) (string, error) {
	client := &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: l.Host("client").Dial}, Timeout: 20 * time.Second,
	}
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(body)), err
}

// served wants every request answered, by both reals in turn, once both are known.
func (l *lab) served() {
	l.Helper()
	l.servedAt("http://" + vip)
	if l.hasIPv6 {
		l.servedAt("http://[" + vip6 + "]")
	}
}

func (l *lab) servedAt(url string) {
	l.Helper()
	tb.Eventually(l, patience, func() error {
		var names []string
		for range 6 {
			name, err := l.get(url)
			if err != nil {
				return fmt.Errorf("%w\n%s", err, l.status())
			}
			names = append(names, name)
		}
		if got := strings.Join(names, " "); got != "rs1 rs2 rs1 rs2 rs1 rs2" && got != "rs2 rs1 rs2 rs1 rs2 rs1" {
			return fmt.Errorf("6 requests were answered by %s", got)
		}
		return nil
	})
}

// says wants texts in what a command prints; blanks are taken as one.
func (l *lab) says(out string, texts ...string) {
	l.Helper()
	squeezed := strings.Join(strings.Fields(out), " ")
	for _, text := range texts {
		if !strings.Contains(squeezed, text) {
			l.Errorf("no %q in:\n%s", text, out)
		}
	}
}

// lost is the number of frames that the tracepoints of a kind have counted.
func (l *lab) lost(iface, why string) int {
	l.Helper()
	return l.metric(fmt.Sprintf(`lvx_frames_lost_total\{interface="%s",why="%s"\}`, iface, why))
}

func (l *lab) metric(series string) int {
	l.Helper()
	out := l.lvx("metrics", "--socket", l.socket())
	found := regexp.MustCompile(`(?m)^` + series + ` ([0-9.e+]+)$`).FindStringSubmatch(out)
	if found == nil {
		l.Fatalf("no %s in the metrics:\n%s", series, out)
	}
	n, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		l.Fatal(err)
	}
	return int(n)
}

// losesFrames takes the far end of a NIC the program without which a veth takes no
// frames of XDP, and wants the losses counted under the interface's name.
func (l *lab) losesFrames(sw, port, iface, why string) {
	l.Helper()
	if n := l.lost(iface, why); n != 0 {
		l.Errorf("%d frames of %s are lost while all is well", n, iface)
	}
	l.ip(sw, "link set dev "+port+" xdp off")
	tb.Eventually(l, patience, func() error {
		ctx, cancel := context.WithTimeout(l.Context(), time.Second)
		defer cancel()
		if conn, err := l.Host("client").Dial(ctx, "tcp", vip+":80"); err == nil {
			_ = conn.Close()
			return fmt.Errorf("a connection comes about")
		}
		if l.lost(iface, why) == 0 {
			return fmt.Errorf("nothing is lost by %s:\n%s", why, l.status())
		}
		return nil
	})
	tb.Eventually(l, patience, func() error {
		if out := l.status(); !regexp.MustCompile(`(?m)^lost ` + iface + ` +` + why + ` +[1-9]`).MatchString(out) {
			return fmt.Errorf("lvx status does not say that frames are lost:\n%s", out)
		}
		return nil
	})
}
