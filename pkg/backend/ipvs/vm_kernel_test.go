//go:build ipvsvm

package ipvs_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/lvx-lb/lvx/pkg/backend/ipvs"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/testenv/vm/onearm"
)

var (
	vip  = netip.MustParseAddr("10.0.0.100")
	vip6 = netip.MustParseAddr("2001:db8::100")
)

// output runs a command in the director's network.
func output(t *testing.T, line string) string {
	t.Helper()
	words := strings.Fields(line)
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	return string(out)
}

func (d director) apply(services ...lb.Service) {
	d.t.Helper()
	if err := d.Apply(d.t.Context(), lb.State{ExpireNodestConn: true, Services: services}); err != nil {
		d.t.Fatal(err)
	}
}

// syn opens a connection and tells which real has it.
func (d director) syn(from, to string) int { return d.packet(lb.TCP, from, to, "S") }

func (d director) packet(proto lb.Protocol, from, to, flags string) int {
	d.t.Helper()
	p := onearm.Packet{Src: netip.MustParseAddrPort(from), Dst: netip.MustParseAddrPort(to), UDP: proto == lb.UDP, Flags: flags}
	n, err := d.net.Choose(p)
	if err != nil {
		d.t.Fatal(err)
	}
	return n
}

func tcp(vip netip.Addr, first, last uint16) lb.Listener {
	return lb.Listener{Addr: vip, Proto: lb.TCP, First: first, Last: last}
}

func udp(vip netip.Addr, first, last uint16) lb.Listener {
	return lb.Listener{Addr: vip, Proto: lb.UDP, First: first, Last: last}
}

func reals(weights ...uint16) []lb.Real {
	var rs []lb.Real
	for i, w := range weights {
		rs = append(rs, lb.Real{Addr: onearm.Real(i + 1), Weight: w})
	}
	return rs
}

func reals6(weights ...uint16) []lb.Real {
	var rs []lb.Real
	for i, w := range weights {
		rs = append(rs, lb.Real{Addr: onearm.Real6(i + 1), Weight: w})
	}
	return rs
}

func service(name string, rs []lb.Real, on ...lb.Listener) lb.Service {
	return lb.Service{Name: name, Scheduler: lb.RR, Listeners: on, Reals: rs}
}

// everything is a state with one service of each kind.
func everything() []lb.Service {
	var all []lb.Service
	for i, s := range lb.Schedulers() {
		if s == lb.TWOS {
			continue // Debian's cloud kernel is built without ip_vs_twos
		}
		svc := service("sched-"+string(s), reals(1, 2, 0), tcp(vip, uint16(1000+i), uint16(1000+i)))
		svc.Scheduler = s
		svc.Flags = lb.SHFallback | lb.SHPort | lb.MHFallback | lb.MHPort
		all = append(all, svc)
	}
	persistent := service("persistent", reals(1, 1), tcp(vip, 443, 443))
	persistent.Persistence = lb.Persistence{Timeout: 300 * time.Second, Prefix: 24}
	persistent.Reals[0].Upper, persistent.Reals[0].Lower = 100, 50
	ops := service("ops", reals(1, 1), udp(vip, 53, 53))
	ops.OnePacket = true
	group := service("group", append(reals(1, 1), reals6(1)...), tcp(vip, 8000, 8100), udp(vip, 500, 500), tcp(vip6, 8000, 8100))
	group.Mark = 7
	group.Persistence = lb.Persistence{Timeout: time.Minute}
	group.Deny = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:bad::/48")}
	six := service("six", reals6(1, 3), tcp(vip6, 80, 80))
	six.Persistence = lb.Persistence{Timeout: time.Minute, Prefix: 64}
	each := service("each port", reals(1), tcp(netip.MustParseAddr("10.0.0.101"), 0, 0))
	nat := service("nat", reals(1), tcp(vip, 90, 90))
	nat.Reals[0].Forward, nat.Reals[0].Port = lb.NAT, 9090
	tunnel := service("tunnel", reals(1), tcp(vip, 91, 91))
	tunnel.Reals[0].Forward = lb.Tunnel
	local := service("local", nil, tcp(vip, 25, 25))
	local.Sorry = netip.MustParseAddr("127.0.0.1")
	return append(all, persistent, ops, group, six, each, nat, tunnel, local)
}

// TestKernelEveryKind: what ipvsadm makes of a state that uses everything.
func TestKernelEveryKind(t *testing.T) {
	d := newDirector(t)
	d.apply(everything()...)
	var got []string
	for line := range strings.Lines(output(t, "ipvsadm -S -n")) {
		if strings.Contains(line, "-A ") || !strings.Contains(line, " 10.0.0.100:10") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	want := `
-A -t 10.0.0.100:25 -s rr
-a -t 10.0.0.100:25 -r 127.0.0.1:25 -g -w 1
-A -t 10.0.0.100:90 -s rr
-a -t 10.0.0.100:90 -r 10.0.0.11:9090 -m -w 1
-A -t 10.0.0.100:91 -s rr
-a -t 10.0.0.100:91 -r 10.0.0.11:91 -i -w 1 --tun-type ipip
-A -t 10.0.0.100:443 -s rr -p 300 -M 255.255.255.0
-a -t 10.0.0.100:443 -r 10.0.0.11:443 -g -w 1
-a -t 10.0.0.100:443 -r 10.0.0.12:443 -g -w 1
-A -t 10.0.0.100:1000 -s rr
-A -t 10.0.0.100:1001 -s wrr
-A -t 10.0.0.100:1002 -s sh -b sh-fallback,sh-port
-A -t 10.0.0.100:1003 -s dh
-A -t 10.0.0.100:1004 -s mh -b mh-fallback,mh-port
-A -t 10.0.0.100:1005 -s lc
-A -t 10.0.0.100:1006 -s wlc
-A -t 10.0.0.100:1007 -s sed
-A -t 10.0.0.100:1008 -s nq
-A -t 10.0.0.100:1009 -s fo
-A -t 10.0.0.100:1010 -s ovf
-A -t 10.0.0.100:1012 -s lblc
-A -t 10.0.0.100:1013 -s lblcr
-A -u 10.0.0.100:53 -s rr -o
-a -u 10.0.0.100:53 -r 10.0.0.11:53 -g -w 1
-a -u 10.0.0.100:53 -r 10.0.0.12:53 -g -w 1
-A -t [2001:db8::100]:80 -s rr -p 60 -M 64
-a -t [2001:db8::100]:80 -r [2001:db8::11]:80 -g -w 1
-a -t [2001:db8::100]:80 -r [2001:db8::12]:80 -g -w 3
-A -f 7 -s rr -p 60
-a -f 7 -r 10.0.0.11:0 -g -w 1
-a -f 7 -r 10.0.0.12:0 -g -w 1
-A -f 7 -6 -s rr -p 60
-a -f 7 -6 -r [2001:db8::11]:0 -g -w 1
-A -f 1819672576 -s rr
-a -f 1819672576 -r 10.0.0.11:0 -g -w 1`
	if diff := cmp.Diff(strings.Split(strings.TrimSpace(want), "\n"), got); diff != "" {
		t.Errorf("ipvsadm -S -n (-want +got):\n%s", diff)
	}
	if got := output(t, "ipvsadm -L -n --thresholds"); !strings.Contains(got, "  -> 10.0.0.11:443                100        50 ") {
		t.Errorf("no thresholds of 100 and 50:\n%s", got)
	}
}

// handles is everything that a change would show in: nftables numbers its
// objects anew when they are made again.
func handles(t *testing.T) string {
	return output(t, "nft -a list ruleset") + output(t, "ipvsadm -L -n --sort") + output(t, "ipvsadm -L -n --nosort") +
		output(t, "ipvsadm -L --timeout") + output(t, "grep -r . /proc/sys/net/ipv4/vs /proc/sys/net/ipv4/ip_forward")
}

// TestKernelAgainNothing: the kernel gives back what it was given, so that the same
// state again changes nothing, and damage is repaired to the same.
func TestKernelAgainNothing(t *testing.T) {
	d := newDirector(t)
	d.apply(everything()...)
	before := handles(t)
	d.apply(everything()...)
	if diff := cmp.Diff(before, handles(t)); diff != "" {
		t.Errorf("the same state again (-before +after):\n%s", diff)
	}
	saved := output(t, "ipvsadm -S -n") + output(t, "nft -s list ruleset")
	for _, damage := range []string{
		"ipvsadm -C", "ipvsadm -D -f 7", "ipvsadm -e -t 10.0.0.100:443 -r 10.0.0.12 -g -w 9", "ipvsadm -E -t 10.0.0.100:1002 -s sh",
		"ipvsadm -a -t 10.0.0.100:1000 -r 10.0.0.19 -g", "nft delete table inet lvx", "nft flush chain inet lvx input",
		"nft flush map inet lvx marks4", "nft delete element inet lvx marks4 { 10.0.0.100 . udp . 500 }", "nft flush set inet lvx denied-0-4",
	} {
		output(t, damage)
		d.apply(everything()...)
		if diff := cmp.Diff(saved, output(t, "ipvsadm -S -n")+output(t, "nft -s list ruleset")); diff != "" {
			t.Errorf("%s is not repaired (-want +got):\n%s", damage, diff)
		}
	}
}

// TestKernelForeignStays: services, tables and settings of others are as before
// when lvx has come and gone.
func TestKernelForeignStays(t *testing.T) {
	d := newDirector(t)
	for _, line := range []string{
		"ipvsadm -A -t 10.0.0.100:22 -s wlc", "ipvsadm -a -t 10.0.0.100:22 -r 10.0.0.15 -g", "ipvsadm --set 800 70 60",
		"sysctl -q -w net.ipv4.vs.sloppy_tcp=1", "nft add table inet other", "nft add chain inet other c",
	} {
		output(t, line)
	}
	before := handles(t)
	d.apply(everything()...)
	d.apply(service("web", reals(1), tcp(vip, 80, 80)))
	if got := d.syn("172.16.0.5:1000", "10.0.0.100:22"); got != 5 {
		t.Errorf("the foreign service chose %d", got)
	}
	if err := d.Close(false); err != nil {
		t.Fatal(err)
	}
	after := strings.ReplaceAll(handles(t), "Route   1      1  ", "Route   1      0  ")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

// TestKernelSuccessor: after a crash the next backend on the same directory knows
// what is ours; connections live on.
func TestKernelSuccessor(t *testing.T) {
	d := newDirector(t)
	dir := t.TempDir()
	d.open(dir)
	d.apply(service("web", reals(1, 1), tcp(vip, 80, 80)), service("old", reals(1), tcp(vip, 81, 85)))
	to := d.syn("172.16.0.5:1000", "10.0.0.100:80")
	d.packet(lb.TCP, "172.16.0.5:1000", "10.0.0.100:80", "A")

	d.open(dir) // the one before says nothing any more
	d.apply(service("web", reals(1, 1), tcp(vip, 80, 80)))
	if got := d.packet(lb.TCP, "172.16.0.5:1000", "10.0.0.100:80", "A"); got != to {
		t.Errorf("the connection to rs%d goes to rs%d", to, got)
	}
	if got := output(t, "ipvsadm -S -n"); strings.Contains(got, "-f") {
		t.Errorf("the old service is left:\n%s", got)
	}
	if got := output(t, "nft list ruleset"); got != "" {
		t.Errorf("rules are left:\n%s", got)
	}
}

// TestKernelReturningReal: the first of three reals goes and comes back. The order
// is that of the file, and the connections of those that are moved live on,
// with their counters.
func TestKernelReturningReal(t *testing.T) {
	d := newDirector(t)
	web := func(rs ...lb.Real) lb.Service { return service("web", rs, tcp(vip, 80, 80)) }
	all := reals(1, 1, 1)
	d.apply(web(all[1:]...))
	kept := map[string]int{}
	for i := range 4 {
		from := fmt.Sprintf("172.16.0.5:%d", 1000+i)
		kept[from] = d.syn(from, "10.0.0.100:80")
		d.packet(lb.TCP, from, "10.0.0.100:80", "A")
	}
	before, err := d.Stats()
	if err != nil {
		t.Fatal(err)
	}
	d.apply(web(all...))
	for from, to := range kept {
		if got := d.packet(lb.TCP, from, "10.0.0.100:80", "A"); got != to {
			t.Errorf("connection of %s to rs%d goes to rs%d", from, to, got)
		}
	}
	want := "10.0.0.13:80 10.0.0.12:80 10.0.0.11:80"
	var got []string
	for line := range strings.Lines(output(t, "ipvsadm -L -n --nosort")) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "Route" {
			got = append(got, f[1])
		}
	}
	if strings.Join(got, " ") != want {
		t.Errorf("the kernel's list is %v, want %s", got, want)
	}
	after, err := d.Stats()
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range before.Services[0].Reals {
		if now := after.Services[0].Reals[i+1]; now.Conns != r.Conns || now.Active != r.Active || now.InPkts != r.InPkts+2 {
			t.Errorf("counters of %s: %+v before, %+v after", r.Addr, r, now)
		}
	}
	if v := output(t, "sysctl -n net.ipv4.vs.expire_nodest_conn"); strings.TrimSpace(v) != "1" {
		t.Errorf("expire_nodest_conn is %s after the move", v)
	}
}

// TestKernelNAT: the packet is rewritten to the real and its reply back to the VIP.
func TestKernelNAT(t *testing.T) {
	d := newDirector(t)
	nat := service("nat", reals(1), tcp(vip, 80, 80))
	nat.Reals[0].Forward, nat.Reals[0].Port = lb.NAT, 8080
	d.apply(nat)
	seen := d.send(onearm.Packet{Src: netip.MustParseAddrPort("172.16.0.5:1000"), Dst: netip.AddrPortFrom(vip, 80), Flags: "S"})
	if len(seen) != 1 || seen[0].Real != 1 || flow(seen[0]) != "172.16.0.5:1000 > 10.0.0.11:8080" {
		t.Fatalf("request: %v", seen)
	}
	seen = d.send(onearm.Packet{Src: netip.MustParseAddrPort("10.0.0.11:8080"), Dst: netip.MustParseAddrPort("172.16.0.5:1000"), Flags: "SA"})
	// On one arm the kernel also tells the real of the shorter way.
	if i := slices.IndexFunc(seen, func(s onearm.Seen) bool { return s.Back }); i < 0 || flow(seen[i]) != "10.0.0.100:80 > 172.16.0.5:1000" {
		t.Fatalf("reply: %v", seen)
	}
}

// TestKernelTunnel: the packet travels whole in a packet to the real.
func TestKernelTunnel(t *testing.T) {
	d := newDirector(t)
	tunnel := service("tunnel", reals(1), tcp(vip, 80, 80))
	tunnel.Reals[0].Forward = lb.Tunnel
	d.apply(tunnel)
	seen := d.send(onearm.Packet{Src: netip.MustParseAddrPort("172.16.0.5:1000"), Dst: netip.AddrPortFrom(vip, 80), Flags: "S"})
	if len(seen) != 1 || seen[0].Real != 1 {
		t.Fatalf("seen %v", seen)
	}
	var ips []string
	for _, l := range seen[0].Frame.Layers() {
		if ip, ok := l.(*layers.IPv4); ok {
			ips = append(ips, ip.SrcIP.String()+" > "+ip.DstIP.String())
		}
	}
	if diff := cmp.Diff([]string{"10.0.0.1 > 10.0.0.11", "172.16.0.5 > 10.0.0.100"}, ips); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func (d director) send(p onearm.Packet) []onearm.Seen {
	d.t.Helper()
	seen, err := d.net.Send(p)
	if err != nil {
		d.t.Fatal(err)
	}
	return seen
}

// flow is a frame's addresses and ports.
func flow(s onearm.Seen) string {
	ip, _ := s.Frame.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	tcp, _ := s.Frame.Layer(layers.LayerTypeTCP).(*layers.TCP)
	if ip == nil || tcp == nil {
		return "?"
	}
	return fmt.Sprintf("%s:%d > %s:%d", ip.SrcIP, tcp.SrcPort, ip.DstIP, tcp.DstPort)
}

// TestKernelIPv6: services by address, groups, lists and connections.
func TestKernelIPv6(t *testing.T) {
	d := newDirector(t)
	group := service("group", reals6(1, 1), tcp(vip6, 8000, 8100))
	group.Deny = []netip.Prefix{netip.MustParsePrefix("2001:db8:bad::/48")}
	d.apply(service("web", reals6(1, 1, 1), tcp(vip6, 80, 80)), group)
	from := func(client string, port int) string { return fmt.Sprintf("[%s]:%d", client, port) }
	got := fmt.Sprint(
		d.syn(from("2001:db8:1::5", 1), "[2001:db8::100]:80"), d.syn(from("2001:db8:1::5", 2), "[2001:db8::100]:80"),
		d.syn(from("2001:db8:1::5", 3), "[2001:db8::100]:8000"), d.syn(from("2001:db8:1::5", 4), "[2001:db8::100]:8100"),
		d.syn(from("2001:db8:bad::5", 5), "[2001:db8::100]:8000"), d.syn(from("2001:db8:bad::5", 6), "[2001:db8::100]:80"),
		d.syn(from("2001:db8:1::5", 7), "[2001:db8::100]:8101"))
	if want := "3 2 2 1 0 1 0"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	cs, err := d.Connections(0)
	if err != nil || len(cs) != 5 {
		t.Fatalf("connections %+v, %v", cs, err)
	}
	for _, c := range cs {
		if !c.Client.Addr().Is6() || c.Service == "" || c.State != "SYN_RECV" {
			t.Errorf("connection %+v", c)
		}
	}
	st, err := d.Stats()
	if err != nil || st.Verdicts[1].Name != "denied" || st.Verdicts[1].Count != 1 {
		t.Errorf("verdicts %+v, %v", st.Verdicts, err)
	}
}

// TestKernelFragments: the rest of a packet, which has no ports, follows its first
// fragment to the real of the group.
func TestKernelFragments(t *testing.T) {
	d := newDirector(t)
	d.apply(service("group", reals(1), udp(vip, 500, 500), udp(vip, 4500, 4500)))
	payload := make([]byte, 1600)
	for i, f := range fragments(t, payload) {
		seen, err := d.net.SendFrame(f)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 && len(seen) != 0 {
			t.Errorf("half a packet went out: %v", seen)
		}
		if i == 1 && (len(seen) == 0 || seen[0].Real != 1) {
			t.Errorf("the whole packet: %v", seen)
		}
	}
}

// fragments cuts a UDP packet in two.
func fragments(t *testing.T, payload []byte) [][]byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: onearm.RouterMAC, DstMAC: onearm.DirectorMAC, EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, TTL: 64, Id: 77, Protocol: layers.IPProtocolUDP, SrcIP: netip.MustParseAddr("172.16.0.5").AsSlice(), DstIP: vip.AsSlice()}
	datagram := gopacket.NewSerializeBuffer()
	u := &layers.UDP{SrcPort: 4000, DstPort: 500}
	if err := u.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(datagram, opts, u, gopacket.Payload(payload)); err != nil {
		t.Fatal(err)
	}
	const cut = 800
	var frames [][]byte
	for _, part := range [][]byte{datagram.Bytes()[:cut], datagram.Bytes()[cut:]} {
		buf := gopacket.NewSerializeBuffer()
		ip.Flags, ip.FragOffset = layers.IPv4MoreFragments, 0
		if len(frames) > 0 {
			ip.Flags, ip.FragOffset = 0, cut/8
		}
		if err := gopacket.SerializeLayers(buf, opts, eth, ip, gopacket.Payload(part)); err != nil {
			t.Fatal(err)
		}
		frames = append(frames, buf.Bytes())
	}
	return frames
}

// TestKernelScale: thousands of services and reals, and a change of one of them.
func TestKernelScale(t *testing.T) {
	d := newDirector(t)
	var all []lb.Service
	for i := range 200 {
		all = append(all,
			service(fmt.Sprint("address-", i), reals(1, 1, 1, 1), tcp(vip, uint16(1000+i), uint16(1000+i))),
			service(fmt.Sprint("group-", i), reals(1, 1), tcp(vip, uint16(10000+10*i), uint16(10005+10*i)), udp(vip, uint16(1000+i), uint16(1000+i))))
	}
	for _, step := range []struct {
		what   string
		change func()
	}{
		{"all", func() {}},
		{"again", func() {}},
		{"one real less", func() { all[40].Reals = reals(1, 1, 1) }},
		{"one group less", func() { all = append(all[:41], all[42:]...) }},
	} {
		step.change()
		start := time.Now()
		d.apply(all...)
		t.Logf("%s: %s", step.what, time.Since(start).Round(time.Millisecond))
	}
	if n := strings.Count(output(t, "ipvsadm -S -n"), "-A "); n != len(all) {
		t.Errorf("%d services, want %d", n, len(all))
	}
	if got := d.packet(lb.UDP, "172.16.0.5:1000", "10.0.0.100:1199", ""); got == 0 {
		t.Error("the last group has no mark")
	}
}

// TestKernelUnknownScheduler: the message names the module.
func TestKernelUnknownScheduler(t *testing.T) {
	d := newDirector(t)
	svc := service("web", reals(1), tcp(vip, 80, 80))
	svc.Scheduler = "nosuch"
	err := d.Apply(t.Context(), lb.State{ExpireNodestConn: true, Services: []lb.Service{svc}})
	if err == nil || !strings.Contains(err.Error(), "ip_vs_nosuch") {
		t.Errorf("error %v", err)
	}
}

// TestKernelAvailableWithoutLedger: notes that cannot be kept are no reason not to
// serve.
func TestKernelAvailableWithoutLedger(t *testing.T) {
	if err := ipvs.Available(); err != nil {
		t.Errorf("with the module: %v", err)
	}
	b, err := ipvs.Open(t.Context(), ipvs.Options{StateDir: filepath.Join(os.DevNull, "x")})
	if err != nil {
		t.Fatalf("on a state directory that cannot be made: %v", err)
	}
	if err := b.Close(false); err != nil {
		t.Error(err)
	}
}
