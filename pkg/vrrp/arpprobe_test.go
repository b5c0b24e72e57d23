package vrrp_test

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// arpProbe asks who has an address every 10 ms and notes which MAC
// addresses answer.
type arpProbe struct {
	seen *capture
	stop chan struct{}
	wg   sync.WaitGroup
	addr netip.Addr
}

const arpEvery = 10 * time.Millisecond

func (l *lab) arpProbe(host string, addr netip.Addr) *arpProbe {
	l.t.Helper()
	p := &arpProbe{seen: l.capture(host, unix.ETH_P_ARP), stop: make(chan struct{}), addr: addr}
	var fd int
	var ifi *net.Interface
	l.inside(host, func() (err error) {
		if ifi, err = net.InterfaceByName("eth0"); err == nil {
			fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		}
		return err
	})
	self := netip.MustParseAddr(hostAddrs[host])
	request := append([]byte{255, 255, 255, 255, 255, 255}, ifi.HardwareAddr...)
	request = append(request, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	request = append(append(request, ifi.HardwareAddr...), self.AsSlice()...)
	request = append(append(request, 0, 0, 0, 0, 0, 0), addr.AsSlice()...)
	p.wg.Go(func() {
		defer unix.Close(fd)
		tick := time.NewTicker(arpEvery)
		defer tick.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-tick.C:
				_ = unix.Sendto(fd, request, unix.MSG_DONTWAIT, &unix.SockaddrLinklayer{Ifindex: ifi.Index})
			}
		}
	})
	l.t.Cleanup(func() { close(p.stop); p.wg.Wait() })
	return p
}

// contested is how long, since begin, more than one MAC address answered:
// the number of probe intervals with two of them.
func (p *arpProbe) contested(begin time.Time) time.Duration {
	p.seen.mu.Lock()
	defer p.seen.mu.Unlock()
	macs := map[int64]map[[6]byte]bool{}
	for _, f := range p.seen.frames {
		reply := len(f.b) >= 42 && f.b[21] == 2 && netip.AddrFrom4([4]byte(f.b[28:32])) == p.addr
		if !reply || f.at.Before(begin) {
			continue
		}
		slot := int64(f.at.Sub(begin) / arpEvery)
		if macs[slot] == nil {
			macs[slot] = map[[6]byte]bool{}
		}
		macs[slot][[6]byte(f.b[22:28])] = true
	}
	n := 0
	for _, m := range macs {
		if len(m) > 1 {
			n++
		}
	}
	return time.Duration(n) * arpEvery
}
