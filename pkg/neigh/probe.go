package neigh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
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
	err = askSegment(ctx, iface, addr, func(mac MAC) (isEnough bool) {
		owner, found = mac, true
		return true
	})
	return owner, found, err
}

// FindOwners asks as [FindOwner] does, and waits for all answers: every
// station but this host that says that it has the address, in the order of
// their first answers.
func FindOwners(ctx context.Context, iface string, addr netip.Addr) (owners []MAC, err error) {
	err = askSegment(ctx, iface, addr, func(mac MAC) (isEnough bool) {
		if !slices.Contains(owners, mac) {
			owners = append(owners, mac)
		}
		return false
	})
	return owners, err
}

// Questions names what a segment asks by who has an address: ARP, or the
// solicitations of Neighbour Discovery.
func Questions(addr netip.Addr) string {
	if addr.Is6() {
		return "solicitations"
	}
	return "ARP"
}

// askSegment asks who has an address, and hands every answer to heard until
// that is enough.
func askSegment(ctx context.Context, iface string, addr netip.Addr, heard func(MAC) (isEnough bool)) error {
	link, err := net.InterfaceByName(iface)
	if err != nil {
		return fmt.Errorf("owner of %s: %w", addr, err)
	}
	own, ok := macFrom(link.HardwareAddr)
	if !ok {
		return fmt.Errorf("owner of %s: %s is not Ethernet", addr, iface)
	}
	conn, err := listenOn(segmentKey{link.Index, addr.Is6()}, iface)
	if err != nil {
		return fmt.Errorf("owner of %s: packet socket on %s: %w", addr, iface, err)
	}
	defer conn.closeForGood()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	question, err := requestFrame(MAC{}, path{mac: own}, addr)
	if err != nil {
		return fmt.Errorf("owner of %s: %w", addr, err)
	}
	for range 2 {
		if _, err := conn.WriteTo(question, &packet.Addr{HardwareAddr: question[:6]}); err != nil {
			return fmt.Errorf("owner of %s on %s: %w", addr, iface, err)
		}
		for until := time.Now().Add(probeGap); ; {
			owner, err := waitForOwner(conn, addr, own, until)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return fmt.Errorf("owner of %s on %s: %w", addr, iface, err)
			}
			if heard(owner) {
				return nil
			}
		}
	}
	return nil
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
