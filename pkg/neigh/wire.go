package neigh

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// liveSegment is the segment of the machine itself.
type liveSegment struct {
	handle *netlink.Handle
	sub    *nl.NetlinkSocket
	done   chan struct{}
	reader sync.WaitGroup
	conns  map[int]*announceConn // by interface index
	claims chan claim
}

// announceConn announces on an interface, and hears what other stations claim there.
type announceConn struct {
	arpConn
	ownMAC    atomic.Pointer[MAC]
	announced sync.Map // every netip.Addr that was announced, so that other ARP ends here
}

func (w *liveSegment) open() (<-chan string, <-chan claim, error) {
	var err error
	if w.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, nil, fmt.Errorf("netlink: %w", err)
	}
	if w.sub, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK); err != nil {
		w.handle.Close()
		return nil, nil, fmt.Errorf("netlink events: %w", err)
	}
	w.done, w.conns = make(chan struct{}), map[int]*announceConn{}
	up := make(chan string)
	w.claims = make(chan claim)
	w.reader.Go(func() { w.readLinkEvents(up) })
	return up, w.claims, nil
}

// readLinkEvents reports interfaces that were not running and now are.
func (w *liveSegment) readLinkEvents(up chan<- string) {
	running := map[int]bool{}
	links, _ := w.handle.LinkList() // without it an interface may be reported once too often
	for _, l := range links {
		running[l.Attrs().Index] = l.Attrs().RawFlags&unix.IFF_RUNNING != 0
	}
	for {
		msgs, _, err := w.sub.Receive()
		select {
		case <-w.done:
			return
		default:
		}
		if err != nil {
			continue // messages were lost; the periodic announcement heals that
		}
		for _, m := range msgs {
			if m.Header.Type != unix.RTM_NEWLINK && m.Header.Type != unix.RTM_DELLINK {
				continue
			}
			header := unix.NlMsghdr{Len: m.Header.Len, Type: m.Header.Type, Flags: m.Header.Flags}
			link, err := netlink.LinkDeserialize(&header, m.Data)
			if err != nil {
				continue
			}
			l := link.Attrs()
			is := l.RawFlags&unix.IFF_RUNNING != 0 && m.Header.Type == unix.RTM_NEWLINK
			was := running[l.Index]
			if running[l.Index] = is; !is {
				delete(running, l.Index)
			}
			if !is || was {
				continue
			}
			select {
			case up <- l.Name:
			case <-w.done:
				return
			}
		}
	}
}

func (w *liveSegment) announce(iface string, vips []netip.Addr) error {
	link, err := w.handle.LinkByName(iface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", iface, err)
	}
	mac, ok := macFrom(link.Attrs().HardwareAddr)
	if !ok {
		return fmt.Errorf("interface %s: not Ethernet, nothing to announce", iface)
	}
	v, err := w.announceConnOn(link.Attrs())
	if err != nil {
		return err
	}
	v.ownMAC.Store(&mac)
	for _, vip := range vips {
		v.announced.Store(vip, nil)
		frame, err := announceFrame(mac, vip)
		if err != nil {
			return fmt.Errorf("announcement of %s: %w", vip, err)
		}
		if _, err := v.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]}); err != nil {
			v.closeForGood() // the interface may be another one next time
			delete(w.conns, link.Attrs().Index)
			return fmt.Errorf("announcement of %s on %s: %w", vip, iface, err)
		}
	}
	return nil
}

// announceConn is the socket of an interface.
func (w *liveSegment) announceConnOn(l *netlink.LinkAttrs) (*announceConn, error) {
	if v := w.conns[l.Index]; v != nil {
		return v, nil
	}
	conn, err := packet.Listen(&net.Interface{Index: l.Index, Name: l.Name}, packet.Raw, etherARP, &packet.Config{Filter: filterForUs()})
	if err != nil {
		return nil, fmt.Errorf("packet socket on %s: %w", l.Name, err)
	}
	v := &announceConn{arpConn: arpConn{Conn: conn}}
	w.conns[l.Index] = v
	w.reader.Go(func() { w.readClaims(l.Name, v) })
	return v, nil
}

// readClaims passes on what other stations claim on an interface, until its
// socket is shut.
func (w *liveSegment) readClaims(iface string, v *announceConn) {
	buf := make([]byte, 128)
	for {
		n, _, err := v.ReadFrom(buf)
		if v.closed.Load() {
			return
		}
		if err != nil { // ENETDOWN, once each time the interface goes down
			time.Sleep(burstGap)
			continue
		}
		addr, mac, ok := parseSender(buf[:n])
		if own := v.ownMAC.Load(); !ok || own == nil || mac == *own {
			continue
		}
		if _, ok := v.announced.Load(addr); !ok {
			continue
		}
		select {
		case w.claims <- claim{place{iface, addr}, mac}:
		case <-w.done:
			return
		}
	}
}

func (w *liveSegment) close() {
	close(w.done)
	w.sub.Close()
	for _, v := range w.conns {
		v.closeForGood()
	}
	w.reader.Wait()
	w.handle.Close()
}
