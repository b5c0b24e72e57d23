package realserver_test

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/lvx-lb/lvx/pkg/realserver"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
	"github.com/vishvananda/netlink"
	"pgregory.net/rapid"
)

var (
	vip1 = testenv.VIP
	vip2 = netip.MustParseAddr("172.25.0.101")
	vip6 = netip.MustParseAddr("fd99::100")
)

// look is everything that Up may change.
type look map[string]string

func inspect(t testing.TB, h *testenv.Host) look {
	t.Helper()
	l := look{}
	for _, scope := range []string{"all", "default", "lo", "eth0"} {
		for _, name := range []string{"arp_ignore", "arp_announce"} {
			key := "net.ipv4.conf." + scope + "." + name
			v, err := h.ReadSysctl(key)
			if err != nil {
				t.Fatal(err)
			}
			l[key] = v
		}
	}
	for _, nic := range []string{"lo", "eth0"} {
		link, err := h.Netlink.LinkByName(nic)
		if err != nil {
			t.Fatal(err)
		}
		list, err := h.Netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range list {
			if !a.IP.IsLinkLocalUnicast() {
				l[a.IPNet.String()] = nic
			}
		}
	}
	return l
}

// with gives l with changes; an empty value removes.
func (l look) with(changes ...string) look {
	n := maps.Clone(l)
	for i := 0; i < len(changes); i += 2 {
		if n[changes[i]] = changes[i+1]; changes[i+1] == "" {
			delete(n, changes[i])
		}
	}
	return n
}

// suppressed is l with the settings of a real server.
func (l look) suppressed() look {
	n := maps.Clone(l)
	for _, scope := range []string{"all", "lo", "eth0"} {
		n["net.ipv4.conf."+scope+".arp_ignore"] = "1"
		n["net.ipv4.conf."+scope+".arp_announce"] = "2"
	}
	return n
}

func want(t testing.TB, h *testenv.Host, what string, w look) {
	t.Helper()
	if d := cmp.Diff(w, inspect(t, h)); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

type real struct {
	*testenv.Host
	file string
}

func newReal(t *testing.T) real {
	t.Helper()
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	h := c.Host("r1")
	return real{h, filepath.Join(h.Dir(), "state", "real.json")}
}

func (r real) up(t testing.TB, vips ...netip.Addr) string {
	t.Helper()
	return r.do(t, realserver.Up, realserver.Options{VIPs: vips})
}

func (r real) down(t testing.TB, vips ...netip.Addr) string {
	t.Helper()
	return r.do(t, realserver.Down, realserver.Options{VIPs: vips})
}

func (r real) do(t testing.TB, f func(realserver.Options) ([]string, error), o realserver.Options) string {
	t.Helper()
	o.StateFile = r.file
	var report []string
	tb.Do(t, r.Host, func() (err error) {
		report, err = f(o)
		return err
	})
	return strings.Join(report, "\n")
}

func (r real) status(t testing.TB, vips ...netip.Addr) realserver.Status {
	t.Helper()
	var st realserver.Status
	tb.Do(t, r.Host, func() (err error) {
		st, err = realserver.Inspect(realserver.Options{VIPs: vips, StateFile: r.file})
		return err
	})
	return st
}

func TestUpAndDown(t *testing.T) {
	r := newReal(t)
	before := inspect(t, r.Host)
	up := before.suppressed().with("172.25.0.100/32", "lo")

	report := r.up(t, vip1)
	want(t, r.Host, "up", up)
	for _, line := range []string{"172.25.0.100: put on lo", "net.ipv4.conf.eth0.arp_ignore: 1, was 0"} {
		if !strings.Contains(report, line) {
			t.Errorf("report lacks %q:\n%s", line, report)
		}
	}
	if report := r.up(t, vip1); report != "172.25.0.100: was on lo already" {
		t.Errorf("second up:\n%s", report)
	}
	want(t, r.Host, "up again", up)

	r.up(t, vip2, vip6)
	want(t, r.Host, "three VIPs", up.with("172.25.0.101/32", "lo", "fd99::100/128", "lo"))
	r.down(t, vip1)
	want(t, r.Host, "two VIPs", up.with("172.25.0.100/32", "", "172.25.0.101/32", "lo", "fd99::100/128", "lo"))
	r.down(t, vip2)
	want(t, r.Host, "the IPv6 VIP alone", before.with("fd99::100/128", "lo"))
	r.down(t)
	want(t, r.Host, "down", before)
	if _, err := os.Stat(r.file); !os.IsNotExist(err) {
		t.Errorf("the state file outlives its content: %v", err)
	}
	if report := r.down(t, vip1); report != "172.25.0.100: was not on lo" {
		t.Errorf("second down:\n%s", report)
	}
	want(t, r.Host, "down again", before)
}

func TestWhatWasThereStays(t *testing.T) {
	r := newReal(t)
	for key, value := range map[string]string{
		"net.ipv4.conf.all.arp_ignore": "2", "net.ipv4.conf.lo.arp_announce": "1", "net.ipv4.conf.eth0.arp_announce": "2",
	} {
		if err := r.Sysctl(key, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.AddAddr("lo", netip.PrefixFrom(vip1, 24)); err != nil {
		t.Fatal(err)
	}
	before := inspect(t, r.Host)
	r.up(t, vip1, vip2)
	want(t, r.Host, "up", before.suppressed().with("172.25.0.101/32", "lo"))
	if report := r.down(t); !strings.Contains(report, "172.25.0.100: stays on lo, where it was before") {
		t.Errorf("report:\n%s", report)
	}
	want(t, r.Host, "down", before)
}

func TestChangedInTheMeantime(t *testing.T) {
	r := newReal(t)
	before := inspect(t, r.Host)
	r.up(t, vip1)
	if err := r.Sysctl("net.ipv4.conf.all.arp_ignore", "8"); err != nil {
		t.Fatal(err)
	}
	if report := r.down(t, vip1); !strings.Contains(report, "net.ipv4.conf.all.arp_ignore: is 8, not the 1 that lvx had set; left alone") {
		t.Errorf("report:\n%s", report)
	}
	want(t, r.Host, "down", before.with("net.ipv4.conf.all.arp_ignore", "8"))
}

func TestLostState(t *testing.T) {
	lose := map[string]func(t *testing.T, file string){
		"removed": func(t *testing.T, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		},
		"of another boot": func(t *testing.T, file string) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
			if err != nil {
				t.Fatal(err)
			}
			other := strings.ReplaceAll(string(b), strings.TrimSpace(string(id)), "another")
			if err := os.WriteFile(file, []byte(other), 0o600); err != nil || other == string(b) {
				t.Fatal(err)
			}
		},
	}
	for name, lose := range lose {
		t.Run(name, func(t *testing.T) {
			r := newReal(t)
			before := inspect(t, r.Host)
			r.up(t, vip1)
			lose(t, r.file)
			report := r.down(t, vip1)
			for _, part := range []string{"172.25.0.100: taken off lo", "are not known", "net.ipv4.conf.all.arp_ignore = 1"} {
				if !strings.Contains(report, part) {
					t.Errorf("report lacks %q:\n%s", part, report)
				}
			}
			want(t, r.Host, "down", before.suppressed())
		})
	}
}

func TestNamedInterface(t *testing.T) {
	c := tb.New(t, testenv.Options{Hosts: []testenv.HostSpec{{Name: "r1", NICs: []testenv.NIC{
		{Addrs: []netip.Prefix{netip.MustParsePrefix("172.25.0.12/24")}},
		{Switch: "back", Addrs: []netip.Prefix{netip.MustParsePrefix("172.26.0.12/24")}},
	}}}})
	h := c.Host("r1")
	r := real{h, filepath.Join(h.Dir(), "real.json")}
	read := func() string {
		var values []string
		for _, nic := range []string{"eth0", "eth1"} {
			v, err := h.ReadSysctl("net.ipv4.conf." + nic + ".arp_ignore")
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, v)
		}
		return strings.Join(values, " ")
	}
	steps := []struct {
		do   func(realserver.Options) ([]string, error)
		o    realserver.Options
		want string // of eth0 and eth1
	}{
		{realserver.Up, realserver.Options{VIPs: []netip.Addr{vip1}}, "1 0"},
		{realserver.Up, realserver.Options{VIPs: []netip.Addr{vip1}, Interface: "eth1"}, "0 1"},
		{realserver.Up, realserver.Options{VIPs: []netip.Addr{vip1}}, "0 1"}, // remembered
		{realserver.Up, realserver.Options{VIPs: []netip.Addr{vip2}}, "1 1"},
		{realserver.Down, realserver.Options{VIPs: []netip.Addr{vip1}}, "1 0"},
		{realserver.Down, realserver.Options{}, "0 0"},
	}
	for i, s := range steps {
		r.do(t, s.do, s.o)
		if got := read(); got != s.want {
			t.Errorf("step %d: arp_ignore of eth0, eth1 is %s, want %s", i, got, s.want)
		}
	}
}

func TestErrors(t *testing.T) {
	r := newReal(t)
	before := inspect(t, r.Host)
	far := netip.MustParseAddr("192.0.2.1")
	for name, c := range map[string]struct {
		o    realserver.Options
		want string
	}{
		"no VIP":       {realserver.Options{}, "VIPs: none given"},
		"loopback":     {realserver.Options{VIPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}, "VIP 127.0.0.1: not an address"},
		"zero":         {realserver.Options{VIPs: make([]netip.Addr, 1)}, "not an address"},
		"no route":     {realserver.Options{VIPs: []netip.Addr{far}}, "VIP 192.0.2.1: no route to its network (name the interface with --interface)"},
		"no interface": {realserver.Options{VIPs: []netip.Addr{vip1}, Interface: "eth9"}, "VIP 172.25.0.100: interface eth9: Link not found"},
		"no directory": {realserver.Options{VIPs: []netip.Addr{vip1}, StateFile: "/proc/nothing/real.json"}, "state directory"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.o.StateFile == "" {
				c.o.StateFile = r.file
			}
			err := r.Do(func() error { _, err := realserver.Up(c.o); return err })
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	want(t, r.Host, "after errors", before)

	for _, content := range []string{"{", `{"boot": 1}`} {
		if err := os.WriteFile(r.file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		report := r.up(t, vip1)
		if !strings.Contains(report, "what was there before is not known: "+r.file) {
			t.Errorf("broken state file:\n%s", report)
		}
		r.down(t, vip1)
	}
}

func TestInspect(t *testing.T) {
	r := newReal(t)
	if st := r.status(t, vip1); st.IsReady() || st.VIPs[0].On != "" || st.VIPs[0].Interface != "eth0" || len(st.Settings) != 2 {
		t.Errorf("before: %+v", st)
	}
	if st := r.status(t); st.IsReady() || len(st.VIPs) != 0 {
		t.Errorf("nothing up: %+v", st)
	}
	r.up(t, vip1)
	got := r.status(t)
	wantVIP := realserver.VIP{Addr: vip1, On: "lo", Ours: true, Interface: "eth0"}
	if d := cmp.Diff([]realserver.VIP{wantVIP}, got.VIPs, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); d != "" || !got.IsReady() {
		t.Errorf("up: ready %v (-want +got):\n%s", got.IsReady(), d)
	}
	if err := r.AddAddr("eth0", netip.PrefixFrom(vip1, 32)); err != nil {
		t.Fatal(err)
	}
	if st := r.status(t); st.IsReady() || !strings.Contains(fmt.Sprint(st.VIPs[0].Faults), "also on eth0") {
		t.Errorf("VIP on eth0 too: %+v", st)
	}
	if report := r.up(t, vip1); !strings.Contains(report, "172.25.0.100 is also on eth0") {
		t.Errorf("report:\n%s", report)
	}
}

// Whatever is set and by whomever: ready means that the host takes packets for
// the VIP, and that a neighbour who asks for it hears nothing; a VIP that is
// of the segment must not be the one that asks.
func TestFault10StatusJudgesWhatWorks(t *testing.T) {
	type settings map[string]string // "eth0.arp_ignore" → value
	const ignoreAll, announceAll = "all.arp_ignore", "all.arp_announce"
	both := settings{ignoreAll: "1", announceAll: "2"}
	for name, c := range map[string]struct {
		set   settings
		on    string
		bits  int
		ready bool
	}{
		"all only":              {both, "lo", 32, true},
		"all and the interface": {settings{ignoreAll: "1", announceAll: "2", "eth0.arp_ignore": "1", "eth0.arp_announce": "2"}, "lo", 32, true},
		"the interface only":    {settings{"eth0.arp_ignore": "1", "eth0.arp_announce": "2"}, "lo", 32, true},
		"one here, one there":   {settings{"eth0.arp_ignore": "2", announceAll: "2"}, "lo", 32, true},
		"lo only":               {settings{"lo.arp_ignore": "1", "lo.arp_announce": "2"}, "lo", 32, false},
		"nothing":               {nil, "lo", 32, false},
		"no arp_announce":       {settings{ignoreAll: "1"}, "lo", 32, false},
		"arp_announce 1":        {settings{ignoreAll: "1", announceAll: "1"}, "lo", 32, false},
		"no arp_ignore":         {settings{announceAll: "2"}, "lo", 32, false},
		"the larger is no cure": {settings{ignoreAll: "1", "eth0.arp_ignore": "3", announceAll: "2"}, "lo", 32, false},
		"network on lo":         {both, "lo", 24, false},
		"dummy":                 {both, "dummy0", 32, true},
		"not there":             {both, "", 32, false},
		"on eth0":               {both, "eth0", 32, false},
	} {
		t.Run(name, func(t *testing.T) {
			c2 := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
			r := real{c2.Host("r1"), filepath.Join(c2.Host("r1").Dir(), "real.json")}
			for key, value := range c.set {
				if err := r.Sysctl("net.ipv4.conf."+key, value); err != nil {
					t.Fatal(err)
				}
			}
			if c.on == "dummy0" {
				// Not every kernel has dummy interfaces; what counts of one is this.
				tb.Run(t, r.Host, "ip", "link", "add", "dummy0", "type", "bridge")
				tb.Run(t, r.Host, "ip", "link", "set", "dummy0", "arp", "off", "up")
			}
			if c.on != "" {
				if err := r.AddAddr(c.on, netip.PrefixFrom(vip1, c.bits)); err != nil {
					t.Fatal(err)
				}
			}
			if st := r.status(t, vip1); st.IsReady() != c.ready {
				t.Errorf("ready: %v, want %v: %+v", st.IsReady(), c.ready, st)
			}
			_, err := c2.Host("client").Run(t.Context(), "arping", "-c", "1", "-w", "1", "-I", "eth0", vip1.String())
			if c.ready && err == nil {
				t.Error("called ready, and answers ARP for the VIP")
			}
		})
	}
}

// What the package is for: the host takes packets for the VIP and is silent
// about it on the segment, at every moment.
func TestNobodyHearsOfTheVIP(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	h, client := c.Host("r1"), c.Host("client")
	r := real{h, filepath.Join(h.Dir(), "real.json")}
	asks := func() error {
		_, err := client.Run(t.Context(), "arping", "-c", "1", "-w", "1", "-I", "eth0", vip1.String())
		return err
	}
	stop := make(chan struct{})
	answered := make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				answered <- n
				return
			default:
				if asks() == nil {
					n++
				}
			}
		}
	}()
	for range 20 {
		r.up(t, vip1)
		tb.Run(t, client, "ip", "neighbour", "replace", vip1.String(), "lladdr", h.MAC("eth0").String(), "dev", "eth0")
		tb.Run(t, client, "ping", "-c", "1", "-W", "10", vip1.String())
		r.down(t, vip1)
	}
	close(stop)
	if n := <-answered; n > 0 {
		t.Errorf("the real answered ARP for the VIP %d times", n)
	}
	if err := h.AddAddr("lo", netip.PrefixFrom(vip1, 32)); err != nil {
		t.Fatal(err)
	}
	if err := asks(); err != nil {
		t.Errorf("the question itself does not work: a host without lvx did not answer (%v)", err)
	}
}

// Whatever goes up and down in whatever order, from whatever was there: in
// the end it is as it was.
func TestDownRestoresEverything(t *testing.T) {
	r := newReal(t)
	clean := inspect(t, r.Host)
	vips := []netip.Addr{vip1, vip2, vip6}
	rapid.Check(t, func(rt *rapid.T) {
		for key := range clean {
			if strings.HasPrefix(key, "net.") {
				value := rapid.SampledFrom([]string{"0", "1", "2"}).Draw(rt, key)
				if err := r.Sysctl(key, value); err != nil {
					rt.Fatal(err)
				}
			}
		}
		there := rapid.Bool().Draw(rt, "vip1 is on lo")
		if there {
			if err := r.AddAddr("lo", netip.PrefixFrom(vip1, 32)); err != nil {
				rt.Fatal(err)
			}
		}
		before := inspect(t, r.Host)
		for i := range rapid.IntRange(1, 8).Draw(rt, "steps") {
			some := rapid.SliceOfNDistinct(rapid.SampledFrom(vips), 1, 3, rapid.ID[netip.Addr]).Draw(rt, fmt.Sprint("vips", i))
			r.up(t, some...)
			if st := r.status(t, some...); !st.IsReady() {
				rt.Errorf("after up of %v: %+v", some, st)
			}
			if rapid.Bool().Draw(rt, fmt.Sprint("down", i)) {
				r.down(t, some...)
			}
		}
		r.down(t)
		if d := cmp.Diff(before, inspect(t, r.Host)); d != "" {
			rt.Errorf("after down (-before +after):\n%s", d)
		}
		if there {
			if err := r.DelAddr("lo", netip.PrefixFrom(vip1, 32)); err != nil {
				rt.Fatal(err)
			}
		}
	})
}
