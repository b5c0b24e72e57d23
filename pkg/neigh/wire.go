package neigh

import (
	"fmt"
	"net"
	"net/netip"
	"sync"

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
	conns  map[int]*packet.Conn // by interface index
}

func (w *wire) open() (<-chan string, error) {
	var err error
	if w.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	if w.sub, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK); err != nil {
		w.handle.Close()
		return nil, fmt.Errorf("netlink events: %w", err)
	}
	w.done, w.conns = make(chan struct{}), map[int]*packet.Conn{}
	up := make(chan string)
	w.reader.Go(func() { w.follow(up) })
	return up, nil
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
	index := link.Attrs().Index
	conn := w.conns[index]
	if conn == nil {
		// Protocol 0: it only sends.
		if conn, err = packet.Listen(&net.Interface{Index: index, Name: iface}, packet.Raw, 0, nil); err != nil {
			return fmt.Errorf("packet socket on %s: %w", iface, err)
		}
		w.conns[index] = conn
	}
	for _, vip := range vips {
		frame, err := gratuitous(mac, vip)
		if err != nil {
			return fmt.Errorf("announcement of %s: %w", vip, err)
		}
		if _, err := conn.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]}); err != nil {
			conn.Close() // the interface may be another one next time
			delete(w.conns, index)
			return fmt.Errorf("announcement of %s on %s: %w", vip, iface, err)
		}
	}
	return nil
}

func (w *wire) close() {
	close(w.done)
	w.sub.Close()
	w.reader.Wait()
	w.handle.Close()
	for _, c := range w.conns {
		c.Close()
	}
}
