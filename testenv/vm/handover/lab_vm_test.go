//go:build ipvsvm

package handover

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/ipvsadm"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// patience bounds every wait for something that must come: emulated, lvx takes
// its time to load the packet path.
const patience = 5 * time.Minute

const lvxBinary = "/t/lvx" // where the lane puts it

// VIPs of the services by address, by mark, and of every port.
var (
	byPort    = netip.MustParseAddr("172.25.0.100")
	byMark    = netip.MustParseAddr("172.25.0.101")
	everyPort = netip.MustParseAddr("172.25.0.102")
	byPort6   = netip.MustParseAddr("fd25::100")
	byMark6   = netip.MustParseAddr("fd25::101")
)

// Every director has these services.
const (
	persistShop  = 300 * time.Second
	persistMark  = 120 * time.Second
	persistEvery = 50 * time.Second

	kernelServices = `-A -t 172.25.0.100:80 -s rr
-A -u 172.25.0.100:53 -s rr
-A -t 172.25.0.100:443 -s rr -p 300
-A -f 10 -s rr -p 120
-A -t 172.25.0.102:0 -s rr -p 50
-A -t [fd25::100]:80 -s rr
-A -u [fd25::100]:53 -s rr
-A -t [fd25::100]:443 -s rr -p 300
-A -f 11 -6 -s rr -p 120
`
	lvxServices = `services:
  - {name: web, listen: ["172.25.0.100:80/tcp"], scheduler: rr, reals: &reals [{address: 172.25.0.12}, {address: 172.25.0.13}]}
  - {name: dns, listen: ["172.25.0.100:53/udp"], scheduler: rr, reals: *reals}
  - {name: shop, listen: ["172.25.0.100:443/tcp"], scheduler: rr, persistence: {timeout: 300s}, reals: *reals}
  - {name: marked, listen: ["172.25.0.101:8000/tcp", "172.25.0.101:9000/tcp"], mark: 10, scheduler: rr, persistence: {timeout: 120s}, reals: *reals}
  - {name: every, listen: ["172.25.0.102:*/tcp"], scheduler: rr, persistence: {timeout: 50s}, reals: *reals}
  - {name: web6, listen: ["[fd25::100]:80/tcp"], scheduler: rr, reals: &reals6 [{address: "fd25::12"}, {address: "fd25::13"}]}
  - {name: dns6, listen: ["[fd25::100]:53/udp"], scheduler: rr, reals: *reals6}
  - {name: shop6, listen: ["[fd25::100]:443/tcp"], scheduler: rr, persistence: {timeout: 300s}, reals: *reals6}
  - {name: marked6, listen: ["[fd25::101]:8000/tcp", "[fd25::101]:9000/tcp"], mark: 11, scheduler: rr, persistence: {timeout: 120s}, reals: *reals6}
`
)

const syncID = 51

// A lab is a segment with three directors: two that run the kernel's IPVS, one
// that runs lvx.
type lab struct {
	*testing.T
	client, master, backup, lvx *testenv.Host
	reals                       []*testenv.Host
}

func newLab(t *testing.T) *lab {
	nic := func(addr string) []testenv.NIC {
		return []testenv.NIC{{Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}, XDPPeer: true, FullChecksum: true}}
	}
	c := tb.New(t, testenv.Options{Hosts: []testenv.HostSpec{
		{Name: "client", NICs: nic("172.25.0.50/24")},
		{Name: "master", NICs: nic("172.25.0.11/24")},
		{Name: "backup", NICs: nic("172.25.0.14/24")},
		{Name: "lvx", NICs: nic("172.25.0.15/24")},
		{Name: "r1", NICs: nic("172.25.0.12/24")},
		{Name: "r2", NICs: nic("172.25.0.13/24")},
	}})
	l := &lab{
		T: t, client: c.Host("client"), master: c.Host("master"), backup: c.Host("backup"), lvx: c.Host("lvx"),
		reals: []*testenv.Host{c.Host("r1"), c.Host("r2")},
	}
	for _, h := range append([]*testenv.Host{l.client, l.master, l.backup, l.lvx}, l.reals...) {
		l.must(h.Sysctl("net.ipv6.conf.eth0.disable_ipv6", "0"))
		l.must(h.AddAddr("eth0", netip.PrefixFrom(addr6(h), 64)))
	}
	for _, h := range []*testenv.Host{l.master, l.backup} {
		l.setUpKernel(h)
	}
	return l
}

// addr6 is the IPv6 address of a host: the last number is written as that of its
// IPv4 one.
func addr6(h *testenv.Host) netip.Addr {
	return netip.MustParseAddr(fmt.Sprint("fd25::", h.Addr("eth0").As4()[3]))
}

// setUpKernel gives a host the services, and VIPs that it is silent about.
func (l *lab) setUpKernel(h *testenv.Host) {
	l.Helper()
	for _, key := range []string{"all", "eth0"} {
		l.must(h.Sysctl("net.ipv4.conf."+key+".arp_ignore", "1"))
	}
	l.must(h.Sysctl("net.ipv6.conf.lo.disable_ipv6", "0"))
	for _, vip := range []netip.Addr{byPort, byMark, everyPort, byPort6, byMark6} {
		l.must(h.AddAddr("lo", netip.PrefixFrom(vip, vip.BitLen())))
	}
	rules := kernelServices
	for line := range strings.Lines(kernelServices) {
		service, _, _ := strings.Cut(strings.TrimPrefix(line, "-A "), " -s ")
		for _, r := range l.reals {
			real := r.Addr("eth0").String()
			if _, port, isIPv6 := strings.Cut(service, "]"); isIPv6 {
				real = "[" + addr6(r).String() + "]" + port
			} else if strings.HasSuffix(service, " -6") {
				real = "[" + addr6(r).String() + "]:80" // as good as any
			}
			rules += fmt.Sprintf("-a %s -r %s -g\n", service, real)
		}
	}
	for line := range strings.Lines(rules) {
		tb.Run(l, h, append([]string{"ipvsadm"}, strings.Fields(line)...)...)
	}
	tb.Run(l, h, "nft", `add table ip6 lvx; add chain ip6 lvx marks { type filter hook prerouting priority mangle; }; add rule ip6 lvx marks ip6 daddr fd25::101 tcp dport { 8000, 9000 } meta mark set 11`)
	tb.Run(l, h, "nft", `add table ip lvx; add chain ip lvx marks { type filter hook prerouting priority mangle; }; add rule ip lvx marks ip daddr 172.25.0.101 tcp dport { 8000, 9000 } meta mark set 10`)
}

// daemon starts or stops a kernel's daemon.
func (l *lab) daemon(h *testenv.Host, args ...string) {
	l.Helper()
	tb.Run(l, h, append([]string{"ipvsadm"}, append(args, "--mcast-interface", "eth0", "--syncid", fmt.Sprint(syncID))...)...)
}

// startLVX starts lvx and waits until it serves.
func (l *lab) startLVX() {
	l.Helper()
	h := l.lvx
	file, socket := filepath.Join(h.Dir(), "lvx.yaml"), filepath.Join(h.Dir(), "lvx.sock")
	body := fmt.Sprintf("interface: eth0\nbackend: xdp\npin_dir: %s\nstate_dir: %s\nadmin: {socket: %s}\ntables: {flows: 65536}\nsync: {syncid: %d}\n%s",
		h.PinDir(), h.Dir(), socket, syncID, lvxServices)
	l.must(os.WriteFile(file, []byte(body), 0o600))
	tb.Start(l, h, lvxBinary, "run", "-c", file)
	tb.Eventually(l, patience, func() error {
		_, err := h.Run(l.Context(), lvxBinary, "status", "--socket", socket)
		return err
	})
}

func (l *lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// listed is a connection or template of a list.
type listed struct {
	real  netip.Addr
	state string
	left  time.Duration
}

// list is what a director has, and between when and when it was read: a command
// may take seconds in an emulated guest.
type list struct {
	of          map[string]listed
	from, until time.Time
}

// ends returns the first and the last moment at which an entry may end: the
// list has whole seconds of what is left, and was read within an interval.
func (a list) ends(of listed) (first, last time.Time) {
	return a.from.Add(of.left - time.Second), a.until.Add(of.left + time.Second)
}

// endApart returns how far apart the ends of an entry are at least, by two lists.
func (a list) endApart(of listed, b list, other listed) time.Duration {
	aFirst, aLast := a.ends(of)
	bFirst, bLast := b.ends(other)
	return max(0, aFirst.Sub(bLast), bFirst.Sub(aLast))
}

func listKey(protocol uint8, client, virtual netip.AddrPort) string {
	return fmt.Sprint(protocol, " ", client, " ", virtual)
}

// stateNames are those of the kernel's list.
var stateNames = map[connsync.State]string{
	connsync.StateEstablished: "ESTABLISHED", connsync.StateFinWait: "FIN_WAIT", connsync.StateTimeWait: "TIME_WAIT",
	connsync.StateClose: "CLOSE", connsync.StateSynRecv: "SYN_RECV",
}

// kernelList is what a kernel lists.
func (l *lab) kernelList(h *testenv.Host) list {
	l.Helper()
	all := list{from: time.Now(), of: map[string]listed{}}
	out := tb.Run(l, h, "cat", "/proc/net/ip_vs_conn")
	all.until = time.Now()
	entries, skipped, err := connsync.ReadProc(strings.NewReader(out))
	if err != nil || skipped != 0 {
		l.Fatalf("%d lines skipped, %v", skipped, err)
	}
	for _, e := range entries {
		state := stateNames[e.State]
		if e.IsTemplate() || e.Protocol != connsync.ProtocolTCP {
			state = ""
		}
		all.of[listKey(e.Protocol, e.Client, e.Virtual)] = listed{e.Real.Addr(), state, e.Left}
	}
	return all
}

// lvxList is what lvx lists.
func (l *lab) lvxList() list {
	l.Helper()
	all := list{from: time.Now(), of: map[string]listed{}}
	out := tb.Run(l, l.lvx, lvxBinary, "list", "--connections", "--json", "--socket", filepath.Join(l.lvx.Dir(), "lvx.sock"))
	all.until = time.Now()
	var parsed ipvsadm.Listing
	l.must(json.Unmarshal([]byte(out), &parsed))
	for _, c := range parsed.Connections {
		state := c.State
		if c.Template || c.Proto != lb.TCP {
			state = ""
		}
		all.of[listKey(uint8(c.Proto), c.Client, c.Virtual)] = listed{c.Real.Addr(), state, time.Duration(c.Expires) * time.Second}
	}
	return all
}

// maxApart is how far apart the ends of an entry may be.
const maxApart = time.Second

// sameAs compares two lists: what each has, its real, its state, and when it
// ends. What is about to end may be missing.
func (a list) sameAs(b list) (worst time.Duration, wrong []string) {
	const ending = 3 * time.Second
	passed := b.until.Sub(a.from)
	for key, of := range a.of {
		other, isThere := b.of[key]
		switch {
		case !isThere && of.left > ending+passed.Abs():
			wrong = append(wrong, fmt.Sprintf("%s: missing, with %s left", key, of.left))
		case !isThere:
		case other.real != of.real:
			wrong = append(wrong, fmt.Sprintf("%s: %s and %s", key, of.real, other.real))
		case other.state != of.state:
			wrong = append(wrong, fmt.Sprintf("%s: %s and %s", key, of.state, other.state))
		default:
			apart := a.endApart(of, b, other)
			if worst = max(worst, apart); apart > maxApart {
				wrong = append(wrong, fmt.Sprintf("%s: ends %s apart, %s at most: %s left, then %s", key, apart, maxApart, of.left, other.left))
			}
		}
	}
	for key, of := range b.of {
		if _, isThere := a.of[key]; !isThere && of.left > ending {
			wrong = append(wrong, fmt.Sprintf("%s: missing on the first", key))
		}
	}
	slices.Sort(wrong)
	return worst, wrong
}

// few are the first of many complaints.
func few(all []string) string {
	if n := len(all); n > 10 {
		return fmt.Sprintf("%s\n… %d in all", strings.Join(all[:10], "\n"), n)
	}
	return strings.Join(all, "\n")
}
