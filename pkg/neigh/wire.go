package neigh

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/kernellist"
)

// liveSegment is the segment of the machine itself.
type liveSegment struct {
	handle *netlink.Handle
	sub    *nl.NetlinkSocket
	done   chan struct{}
	reader sync.WaitGroup
	conns  map[segmentKey]*announceConn
	claims chan claim
}

// announceConn announces on an interface, and hears what other stations claim there.
type announceConn struct {
	*arpConn
	ownMAC    atomic.Pointer[MAC]
	announced sync.Map // every netip.Addr that was announced, so that what is said of others ends here
}

func (w *liveSegment) open() (<-chan linkEvent, <-chan claim, error) {
	var err error
	if w.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, nil, fmt.Errorf("netlink: %w", err)
	}
	if w.sub, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK); err != nil {
		w.handle.Close()
		return nil, nil, fmt.Errorf("netlink events: %w", err)
	}
	w.done, w.conns = make(chan struct{}), map[segmentKey]*announceConn{}
	up := make(chan linkEvent)
	w.claims = make(chan claim)
	w.reader.Go(func() { w.readLinkEvents(up) })
	return up, w.claims, nil
}

// runningLink is what counts of an interface that runs.
type runningLink struct {
	name string
	mac  MAC
}

// readLinkEvents reports interfaces that were not running and now are, and
// those whose MAC changes.
func (w *liveSegment) readLinkEvents(up chan<- linkEvent) {
	running := map[int]runningLink{}
	links, _ := kernellist.Complete(w.handle.LinkList) // without it an interface may be reported once too often
	for _, l := range links {
		if at := l.Attrs(); at.RawFlags&unix.IFF_RUNNING != 0 {
			mac, _ := macFrom(at.HardwareAddr)
			running[at.Index] = runningLink{at.Name, mac}
		}
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
			e, ok := linkEventOf(m, running)
			if !ok {
				continue
			}
			select {
			case up <- e:
			case <-w.done:
				return
			}
		}
	}
}

// linkEventOf reads one message of rtnetlink and keeps account of what runs.
func linkEventOf(m syscall.NetlinkMessage, running map[int]runningLink) (linkEvent, bool) {
	if m.Header.Type != unix.RTM_NEWLINK && m.Header.Type != unix.RTM_DELLINK {
		return linkEvent{}, false
	}
	header := unix.NlMsghdr{Len: m.Header.Len, Type: m.Header.Type, Flags: m.Header.Flags}
	link, err := netlink.LinkDeserialize(&header, m.Data)
	if err != nil {
		return linkEvent{}, false
	}
	at := link.Attrs()
	if at.RawFlags&unix.IFF_RUNNING == 0 || m.Header.Type == unix.RTM_DELLINK {
		delete(running, at.Index)
		return linkEvent{}, false
	}
	mac, _ := macFrom(at.HardwareAddr)
	before, ran := running[at.Index]
	if mac == (MAC{}) { // not every message says it
		mac = before.mac
	}
	running[at.Index] = runningLink{at.Name, mac}
	switch {
	case !ran:
		return linkEvent{iface: at.Name}, true
	case before.mac != mac:
		return linkEvent{at.Name, mac}, true
	}
	return linkEvent{}, false
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
	for _, vip := range vips {
		if err := w.announceOne(link.Attrs(), mac, vip); err != nil {
			return err
		}
	}
	return nil
}

func (w *liveSegment) announceOne(l *netlink.LinkAttrs, mac MAC, vip netip.Addr) error {
	k := segmentKey{l.Index, vip.Is6()}
	c, err := w.announceConnOn(k, l.Name)
	if err != nil {
		return err
	}
	c.ownMAC.Store(&mac)
	c.announced.Store(vip, nil)
	frame, err := announceFrame(mac, vip, vip.Is6() && isRouter(l.Name))
	if err != nil {
		return fmt.Errorf("announcement of %s: %w", vip, err)
	}
	if _, err := c.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]}); err != nil {
		c.closeForGood() // the interface may be another one next time
		delete(w.conns, k)
		return fmt.Errorf("announcement of %s on %s: %w", vip, l.Name, err)
	}
	return nil
}

// isRouter reports whether this host routes IPv6 packets that come in by an
// interface.
func isRouter(iface string) bool {
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + iface + "/forwarding")
	return err == nil && strings.TrimSpace(string(b)) != "0"
}

// announceConnOn is the socket for one family on an interface.
func (w *liveSegment) announceConnOn(k segmentKey, iface string) (*announceConn, error) {
	if c := w.conns[k]; c != nil {
		return c, nil
	}
	conn, err := listenOn(k, iface)
	if err != nil {
		return nil, fmt.Errorf("packet socket on %s: %w", iface, err)
	}
	c := &announceConn{arpConn: conn}
	w.conns[k] = c
	w.reader.Go(func() { w.readClaims(iface, c) })
	return c, nil
}

// readClaims passes on what other stations claim on an interface, until its
// socket is shut.
func (w *liveSegment) readClaims(iface string, v *announceConn) {
	buf := make([]byte, maxFrame)
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
