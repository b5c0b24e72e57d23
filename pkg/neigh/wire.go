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

// wire is the segment of the machine itself.
type wire struct {
	handle *netlink.Handle
	sub    *nl.NetlinkSocket
	done   chan struct{}
	reader sync.WaitGroup
	conns  map[int]*voice // by interface index
	claims chan claim
}

// voice announces on an interface, and listens who else does.
type voice struct {
	arpConn
	own  atomic.Pointer[MAC]
	said sync.Map // every netip.Addr that was announced, so that other ARP ends here
}

func (w *wire) open() (<-chan string, <-chan claim, error) {
	var err error
	if w.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, nil, fmt.Errorf("netlink: %w", err)
	}
	if w.sub, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK); err != nil {
		w.handle.Close()
		return nil, nil, fmt.Errorf("netlink events: %w", err)
	}
	w.done, w.conns = make(chan struct{}), map[int]*voice{}
	up := make(chan string)
	w.claims = make(chan claim)
	w.reader.Go(func() { w.follow(up) })
	return up, w.claims, nil
}

// follow reports interfaces that were not running and now are.
func (w *wire) follow(up chan<- string) {
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

func (w *wire) announce(iface string, vips []netip.Addr) error {
	link, err := w.handle.LinkByName(iface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", iface, err)
	}
	mac, ok := macFrom(link.Attrs().HardwareAddr)
	if !ok {
		return fmt.Errorf("interface %s: not Ethernet, nothing to announce", iface)
	}
	v, err := w.voice(link.Attrs())
	if err != nil {
		return err
	}
	v.own.Store(&mac)
	for _, vip := range vips {
		v.said.Store(vip, nil)
		frame, err := gratuitous(mac, vip)
		if err != nil {
			return fmt.Errorf("announcement of %s: %w", vip, err)
		}
		if _, err := v.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]}); err != nil {
			v.shut() // the interface may be another one next time
			delete(w.conns, link.Attrs().Index)
			return fmt.Errorf("announcement of %s on %s: %w", vip, iface, err)
		}
	}
	return nil
}

// voice is the socket of an interface.
func (w *wire) voice(l *netlink.LinkAttrs) (*voice, error) {
	if v := w.conns[l.Index]; v != nil {
		return v, nil
	}
	conn, err := packet.Listen(&net.Interface{Index: l.Index, Name: l.Name}, packet.Raw, etherARP, &packet.Config{Filter: forUs()})
	if err != nil {
		return nil, fmt.Errorf("packet socket on %s: %w", l.Name, err)
	}
	v := &voice{arpConn: arpConn{Conn: conn}}
	w.conns[l.Index] = v
	w.reader.Go(func() { w.listen(l.Name, v) })
	return v, nil
}

// listen passes on who speaks on an interface besides this host, until its
// socket is shut.
func (w *wire) listen(iface string, v *voice) {
	buf := make([]byte, 128)
	for {
		n, _, err := v.ReadFrom(buf)
		if v.closed.Load() {
			return
		}
		if err != nil { // ENETDOWN, once each time the interface goes down
			time.Sleep(breath)
			continue
		}
		addr, mac, ok := sender(buf[:n])
		if own := v.own.Load(); !ok || own == nil || mac == *own {
			continue
		}
		if _, ok := v.said.Load(addr); !ok {
			continue
		}
		select {
		case w.claims <- claim{place{iface, addr}, mac}:
		case <-w.done:
			return
		}
	}
}

func (w *wire) close() {
	close(w.done)
	w.sub.Close()
	for _, v := range w.conns {
		v.shut()
	}
	w.reader.Wait()
	w.handle.Close()
}
