package xdp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// The VLANs of lvx0, of whose frames a test's program thinks that they come by
// interface 1; and one of an interface that lvx does not serve.
var testVLANs = []loader.VLAN{
	{Name: "lvx0.100", Index: 1100, ID: 100, Device: "lvx0", DeviceIndex: 1},
	{Name: "lvx0.200", Index: 1200, ID: 200, Device: "lvx0", DeviceIndex: 1},
	{Name: "far0.300", Index: 1300, ID: 300, Device: "far0", DeviceIndex: 77},
}

// redirected is what XDP does with a frame that leaves by another interface.
const redirected = 4

// newVLANs serves VLANs of lvx0, and with untagged that itself, too.
func newVLANs(t testing.TB, untagged, ipv6 bool) *harness {
	t.Helper()
	o := Options{Flows: 4096, Templates: 1024, StillClock: true, IPv6: ipv6, Interfaces: []string{"lvx0.100", "lvx0.200"}}
	if untagged {
		o.Interfaces = append(o.Interfaces, "lvx0")
	}
	o.VLANs = func() []loader.VLAN { return testVLANs }
	return openHarness(t, o)
}

// putTag gives a frame without one a tag with a priority; 0: none.
func putTag(frame []byte, id uint16) []byte {
	if id == 0 {
		return frame
	}
	return slices.Concat(frame[:12], []byte{0x81, 0, 0xa0 | byte(id>>8), byte(id)}, frame[12:])
}

// takeTag is a frame without its tag, and the tag: its number, and its priority in
// the upper four bits.
func takeTag(frame []byte) (without []byte, tag uint16) {
	if !isTag(frame[12:]) {
		return frame, 0
	}
	return slices.Concat(frame[:12], frame[16:]), binary.BigEndian.Uint16(frame[14:])
}

// homes are where hosts are: the interface that leads to each, and the tag there.
var homes = []struct {
	device string
	index  int
	tag    uint16
}{{"lvx0.100", 1100, 100}, {"lvx0.200", 1200, 200}, {"lvx0", 1, 0}, {"far0.300", 1300, 300}}

// spread moves every host of a harness to one of homes, and returns to which: by its
// address. What goes by NAT has to come back by an interface that lvx serves.
func (h *harness) spread(s lb.State) map[netip.Addr]int {
	home := map[netip.Addr]int{natGateway: 1}
	for _, svc := range s.Services {
		for _, r := range append(slices.Clone(svc.Reals), lb.Real{Addr: svc.Sorry}) {
			if r.Addr.IsValid() {
				n := len(homes)
				if r.Forward == lb.NAT {
					n--
				}
				home[r.Addr] = int(r.Addr.As16()[15]) % n
			}
		}
	}
	hosts := map[netip.Addr]Neighbor{}
	for a, at := range home {
		n := h.net.Lookup(a)
		n.Device, n.IfIndex = homes[at].device, homes[at].index
		hosts[a] = n
	}
	h.net.hosts = hosts
	return home
}

// A director with VLANs does what one without does, and the tag that leaves is that of
// where the frame goes: whatever way, whatever it had before.
func TestVLANsDoTheSame(t *testing.T) {
	t.Run("IPv4", func(t *testing.T) {
		p := newVLANPair(t, false, (*harness).mixedWorld)
		p.run(t, 2000, mixedPacket, "stay", "0>100", "0>200", "0>300", "100>0", "100>200", "100>300", "200>0", "200>100", "200>300")
	})
	t.Run("IPv6", func(t *testing.T) {
		p := newVLANPair(t, true, func(*harness) lb.State { return explainedWorld6() })
		p.run(t, 1000, packet6, "stay", "0>200", "100>0", "100>200", "200>0")
	})
}

// vlanPair is a director with VLANs beside one without.
type vlanPair struct {
	untagged, vlans *harness
	state           lb.State
	home            map[netip.Addr]int // of hosts, where there are VLANs
	crossed         map[string]int     // how often a frame left with another tag
}

func newVLANPair(t *testing.T, ipv6 bool, world func(*harness) lb.State) *vlanPair {
	p := &vlanPair{untagged: newStill(t, 4096, 1024), crossed: map[string]int{}}
	if ipv6 {
		p.untagged = newDual(&struct{ testing.TB }{t})
	}
	p.vlans = newVLANs(&struct{ testing.TB }{t}, true, ipv6)
	for _, h := range []*harness{p.untagged, p.vlans} {
		p.state = world(h)
	}
	p.home = p.vlans.spread(p.state)
	p.vlans.dp.Settings.Seed, p.vlans.dp.Settings.NameKey = p.untagged.dp.Settings.Seed, p.untagged.dp.Settings.NameKey
	p.apply()
	return p
}

func (p *vlanPair) apply() { p.untagged.apply(p.state); p.vlans.apply(p.state) }

func (p *vlanPair) run(t *testing.T, packets int, draw func(*rand.Rand) lb.Packet, kinds ...string) {
	t.Helper()
	r := rand.New(rand.NewPCG(3, 4))
	for i := range packets {
		if i%500 == 499 {
			for j := range p.state.Services {
				p.state.Services[j].Reals = newWeights(p.state.Services[j].Reals, r)
			}
			p.apply()
		}
		packet := draw(r)
		f, err := buildFrame(packet, p.untagged.dp.Interfaces[0].MAC)
		must(t, err)
		if why := p.send(f, []uint16{0, 100, 200}[r.IntN(3)]); why != "" {
			t.Fatalf("packet %d, %+v: %s", i, packet, why)
		}
	}
	t.Logf("tags: %v", p.crossed)
	for _, kind := range kinds {
		if p.crossed[kind] == 0 {
			t.Errorf("no frame went %s", kind)
		}
	}
}

// send runs a frame on both, on the one with a tag, and says how what they do differs.
func (p *vlanPair) send(f []byte, from uint16) (difference string) {
	verdict, want, action := p.untagged.verdict(f)
	got, out, didAction := p.vlans.verdict(putTag(f, from))
	if action != tx {
		if got != verdict || didAction != action {
			return fmt.Sprintf("with tag %d it is %s (action %d), without VLANs %s (action %d)", from, got, didAction, verdict, action)
		}
		return ""
	}
	to := from // of an answer
	for a, n := range p.vlans.net.hosts {
		if bytes.Equal(want[:6], n.MAC[:]) {
			to = homes[p.home[a]].tag
		}
	}
	kind := "stay"
	if to != from {
		kind = fmt.Sprintf("%d>%d", from, to)
		verdict = strings.Replace(verdict, "forwarded", "redirected", 1)
		verdict = strings.Replace(verdict, "icmp_redirected", "icmp_forwarded", 1)
	}
	p.crossed[kind]++
	if to == 300 {
		action = redirected
	}
	bare, tag := takeTag(out)
	switch {
	case got != verdict || didAction != action:
		return fmt.Sprintf("with tag %d it is %s (action %d), want %s (action %d)", from, got, didAction, verdict, action)
	case tag&0xfff != to || (from != 0 && to != 0 && tag>>12 != 0xa):
		return fmt.Sprintf("%s from tag %d it leaves with tag %#x, want %d and its priority", got, from, tag, to)
	case !bytes.Equal(withoutRandom(bare, verdict), withoutRandom(want, verdict)):
		return fmt.Sprintf("%s from tag %d it leaves as\n%x\nwithout VLANs as\n%x", got, from, bare, want)
	}
	return ""
}

// Frames of VLANs that are not served are the kernel's, and so are those without a tag
// where only VLANs are served: by the short way and by the long one.
func TestVLANsOfOthers(t *testing.T) {
	for _, untagged := range []bool{true, false} {
		h := newVLANs(&struct{ testing.TB }{t}, untagged, false)
		s := lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(0)}}
		s.Services[0].Reals = []lb.Real{{Addr: realN(2), Weight: 1}}
		h.spread(s)
		h.apply(s)
		packet := frame(syn(lb.TCP))
		h.want(putTag(packet, 100), "forwarded", tx)
		h.want(putTag(packet, 200), "redirected", tx)
		h.want(putTag(packet, 300), "not_our_mac", pass)
		h.want(tagged(packet, 0x8100, 0x8100), "not_our_mac", pass)
		for _, p := range [][]byte{packet, withOptions(packet, 2)} {
			if untagged {
				h.want(p, "redirected", tx)
			} else {
				h.want(p, "not_our_mac", pass)
			}
		}
	}
}

// ARP for a VIP that another director owns is not answered, in no VLAN.
func TestVLANsSilenceARP(t *testing.T) {
	h := newVLANs(t, false, false)
	s := lb.State{VIPs: standby(vip), Services: []lb.Service{webService(1)}}
	h.apply(s)
	ask := arpFor(1, client.Addr(), vip)
	h.want(putTag(ask, 100), "arp_silenced", drop)
	h.apply(lb.State{Services: s.Services})
	h.want(putTag(ask, 100), "not_our_mac", pass)
}

// A held fragment gets the tag that the packet path would have given it.
func TestRetag(t *testing.T) {
	bare := frame(syn(lb.TCP))
	for _, from := range []uint16{0, 100} {
		for _, to := range []uint16{0, 200, bpf.Untagged} {
			out, device := retag(putTag(bare, from), 5|uint32(to)<<bpf.WayVLANShift)
			rest, tag := takeTag(out)
			want := map[uint16]uint16{0: from, 200: 200, bpf.Untagged: 0}[to]
			if device != 5 || tag&0xfff != want || !bytes.Equal(rest, bare) {
				t.Errorf("from %d to %d: device %d, tag %d, frame\n%x", from, to, device, tag, out)
			}
		}
	}
}

// An adopted real is where its predecessor had it: nothing is rewritten while it is
// being asked.
func TestVLANsAreAdopted(t *testing.T) {
	h := newVLANs(t, false, false)
	s := lb.State{ExpireNodestConn: true, Services: []lb.Service{webService(3)}}
	h.spread(s)
	h.apply(s)
	was := slices.Clone(h.dp.Reals[:4])
	h.succeed()
	h.net.hosts = nil
	h.apply(s)
	for i, real := range was {
		if h.dp.Reals[i] != real {
			t.Errorf("slot %d became %+v, was %+v", i, h.dp.Reals[i], real)
		}
	}
	if got := h.interfaceName(was[1].Ifindex); got != "lvx0.100" {
		t.Errorf("the second real is reached by %q", got)
	}
}
