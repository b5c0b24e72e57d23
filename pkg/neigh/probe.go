package neigh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/packet"
)

// probeGap is the time between the two questions of [FindOwner], and after the
// second one.
const probeGap = 150 * time.Millisecond

// FindOwner asks a segment which station has an address that this host is
// about to claim: twice within 300 ms, in no address's name, so that no
// station learns anything from the question (RFC 5227 section 2.1.1, RFC 4862
// section 5.4.2). found is false when no station but this host answers. A
// station that asks the same about the same address at the same time counts as
// nobody: it does not have the address yet.
func FindOwner(ctx context.Context, iface string, addr netip.Addr) (owner MAC, found bool, err error) {
	link, err := net.InterfaceByName(iface)
	if err != nil {
		return MAC{}, false, fmt.Errorf("owner of %s: %w", addr, err)
	}
	own, ok := macFrom(link.HardwareAddr)
	if !ok {
		return MAC{}, false, fmt.Errorf("owner of %s: %s is not Ethernet", addr, iface)
	}
	conn, err := listenOn(segmentKey{link.Index, addr.Is6()}, iface)
	if err != nil {
		return MAC{}, false, fmt.Errorf("owner of %s: packet socket on %s: %w", addr, iface, err)
	}
	defer conn.closeForGood()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	question, err := requestFrame(MAC{}, path{mac: own}, addr)
	if err != nil {
		return MAC{}, false, fmt.Errorf("owner of %s: %w", addr, err)
	}
	for range 2 {
		if _, err := conn.WriteTo(question, &packet.Addr{HardwareAddr: question[:6]}); err != nil {
			return MAC{}, false, fmt.Errorf("owner of %s on %s: %w", addr, iface, err)
		}
		owner, err = waitForOwner(conn, addr, own, time.Now().Add(probeGap))
		switch {
		case ctx.Err() != nil:
			return MAC{}, false, ctx.Err()
		case err == nil:
			return owner, true, nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return MAC{}, false, fmt.Errorf("owner of %s on %s: %w", addr, iface, err)
		}
	}
	return MAC{}, false, nil
}

// waitForOwner reads until another station says that it has addr.
func waitForOwner(conn *arpConn, addr netip.Addr, own MAC, until time.Time) (MAC, error) {
	if err := conn.SetReadDeadline(until); err != nil {
		return MAC{}, err
	}
	buf := make([]byte, maxFrame)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return MAC{}, err
		}
		if said, mac, ok := parseSender(buf[:n]); ok && said == addr && mac != own {
			return mac, nil
		}
	}
}
