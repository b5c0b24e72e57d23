package neigh

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// maxFrame is room for every message of ARP and neighbour discovery that
// this package looks at, options of others included.
const maxFrame = 512

// arpConn is a packet socket that knows that it was closed on purpose.
type arpConn struct {
	*packet.Conn
	closed atomic.Bool
}

// closeForGood ends it, and its reader.
func (c *arpConn) closeForGood() {
	c.closed.Store(true)
	c.Close()
}

// chooseConnectSource is what to connect to a from: for IPv6 not the
// link-local address, which only some services take.
func chooseConnectSource(a netip.Addr, p path, own []netlink.Addr, avoid map[netip.Addr]bool) netip.Addr {
	if a.Is4() {
		return p.src.Addr
	}
	var other netip.Addr
	for _, o := range own {
		ip, _ := netip.AddrFromSlice(o.IP)
		if o.LinkIndex != p.ifindex || !ip.Is6() || ip.Is4In6() || ip.IsLinkLocalUnicast() || avoid[ip] ||
			o.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			continue
		}
		if o.Contains(a.AsSlice()) {
			return ip
		}
		other = ip
	}
	return other
}

func (h *liveNetwork) ask(to MAC, p path, addr netip.Addr) error {
	frame, err := requestFrame(to, p, addr.WithZone(""))
	if err != nil {
		return err
	}
	conn, err := h.connOn(segmentKey{p.ifindex, addr.Is6()}, p.device)
	if err != nil {
		return err
	}
	_, err = conn.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
	return err
}

// connOn is the socket for one family on an interface.
func (h *liveNetwork) connOn(k segmentKey, device string) (*arpConn, error) {
	if c := h.conns[k]; c != nil {
		return c, nil
	}
	c, err := listenOn(k, device)
	if err != nil {
		return nil, err
	}
	h.conns[k] = c
	h.readers.Go(func() { h.readSenders(k.ifindex, c) })
	return c, nil
}

// listenOn opens a packet socket for ARP or neighbour discovery.
func listenOn(k segmentKey, device string) (*arpConn, error) {
	protocol, filter := etherARP, filterARP
	if k.isIPv6 {
		protocol, filter = etherIPv6, filterNDP
	}
	conn, err := packet.Listen(&net.Interface{Index: k.ifindex, Name: device}, packet.Raw, protocol,
		&packet.Config{Filter: assemble(filter)})
	if err != nil {
		return nil, err
	}
	return &arpConn{Conn: conn}, nil
}

// The filters accept what is addressed to this host or to all; of IPv6 only
// neighbour solicitations and advertisements. The kernel counts frames of
// other VLANs as addressed to others.
var (
	filterARP = []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: 1},
		bpf.RetConstant{Val: wholeFrame},
		bpf.RetConstant{Val: 0},
	}
	filterNDP = []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: 6},
		bpf.LoadAbsolute{Off: headerLen + 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoICMPv6, SkipTrue: 4},
		bpf.LoadAbsolute{Off: headerLen + ipv6HeadLen, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: solicitation, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: advertising, SkipTrue: 1},
		bpf.RetConstant{Val: wholeFrame},
		bpf.RetConstant{Val: 0},
	}
)

const wholeFrame = 1 << 16

func assemble(program []bpf.Instruction) []bpf.RawInstruction {
	raw, err := bpf.Assemble(program)
	if err != nil {
		panic(err) // a constant program
	}
	return raw
}

// readSenders reports which station says that it has which address, until its socket is closed.
func (h *liveNetwork) readSenders(ifindex int, c *arpConn) {
	buf := make([]byte, maxFrame)
	for {
		n, _, err := c.ReadFrom(buf)
		if c.closed.Load() {
			return
		}
		if err != nil { // ENETDOWN, once each time the interface goes down
			if !h.sendEvent(event{kind: routesChanged}) {
				return
			}
			time.Sleep(burstGap) // should it be another one, and stay
			continue
		}
		addr, mac, ok := parseSender(buf[:n])
		if ok && !h.sendEvent(event{kind: spokeItself, ifindex: ifindex, addr: addr, mac: mac}) {
			return
		}
	}
}

func (h *liveNetwork) keep(used map[segmentKey]bool) {
	for k, c := range h.conns {
		if !used[k] {
			c.closeForGood()
			delete(h.conns, k)
		}
	}
}
