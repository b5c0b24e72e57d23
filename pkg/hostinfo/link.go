package hostinfo

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Link is what an interface is doing now.
type Link struct {
	IsNative  bool // a program is attached to its driver
	IsGeneric bool // a program is attached behind it: XDP in generic mode
	IsVeth    bool
	LacksPeer bool   // IsVeth, and the other end has no program: what XDP sends is lost
	Bridge    string // that it is a port of; "" if it is none
	HasLRO    bool   // frames are merged before XDP sees them
	HasGRO    bool   // the same before XDP in generic mode sees them
	HasStrip  bool   // VLAN tags are taken out of them
}

// ExamineLink looks at an interface of the calling thread's network
// namespace. The other end of a veth may be in another one.
func ExamineLink(name string) (Link, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return Link{}, fmt.Errorf("interface %s: %w", name, err)
	}
	l := Link{IsVeth: driver(name) == "veth", IsNative: isAttached(link, nl.XDP_ATTACHED_DRV), IsGeneric: isAttached(link, nl.XDP_ATTACHED_SKB), Bridge: bridgeOf(link)}
	if l.IsVeth {
		has, err := peerIsNative(link.Attrs())
		if err != nil {
			return Link{}, fmt.Errorf("other end of %s: %w", name, err)
		}
		l.LacksPeer = !has
		return l, nil // what it does to frames, XDP does not see
	}
	flags := askEthtool(name, unix.ETHTOOL_GFLAGS)
	l.HasLRO, l.HasStrip = flags&flagLRO != 0, flags&flagRXVLAN != 0
	l.HasGRO = askEthtool(name, unix.ETHTOOL_GGRO) != 0
	return l, nil
}

// CannotSend returns why frames that XDP sends by an interface in native mode
// would be lost, nil if nothing is known against it.
func CannotSend(name string) error {
	l, err := ExamineLink(name)
	switch {
	case err != nil: // what cannot be asked is not known
	case l.Bridge != "":
		return fmt.Errorf("it is a port of %s: frames leave by the bridge, which takes none from native XDP", l.Bridge)
	case l.LacksPeer:
		return errors.New("the other end of this veth has no XDP program, without which it takes no frames")
	}
	return nil
}

// bridgeOf is the name of the bridge that a link is a port of. Routes name the
// bridge then, and a bridge has no ndo_xdp_xmit.
func bridgeOf(link netlink.Link) string {
	if link.Attrs().MasterIndex == 0 {
		return ""
	}
	master, err := netlink.LinkByIndex(link.Attrs().MasterIndex)
	if err != nil || master.Type() != "bridge" {
		return ""
	}
	return master.Attrs().Name
}

func isAttached(link netlink.Link, mode uint32) bool {
	x := link.Attrs().Xdp
	return x != nil && x.AttachMode == mode
}

// peerIsNative reports whether the other end of a veth has a program in its
// driver: only then it takes frames that this end sends by XDP.
func peerIsNative(a *netlink.LinkAttrs) (bool, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(a.ParentIndex)
	req.AddData(msg)
	if a.NetNsID >= 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_TARGET_NETNSID, nl.Uint32Attr(uint32(a.NetNsID))))
	}
	answers, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if err != nil {
		return false, err
	}
	for _, m := range answers {
		peer, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			return false, err
		}
		if isAttached(peer, nl.XDP_ATTACHED_DRV) {
			return true, nil
		}
	}
	return false, nil
}

// Flags of ETHTOOL_GFLAGS (include/uapi/linux/ethtool.h).
const (
	flagRXVLAN = 1 << 8
	flagLRO    = 1 << 15
)

// askEthtool asks what `ethtool -k` shows; 0 if it is not known.
func askEthtool(name string, command uint32) uint32 {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	value := &struct{ cmd, data uint32 }{cmd: command} // struct ethtool_value
	if ethtool(fd, name, unsafe.Pointer(value)) != nil {
		return 0
	}
	return value.data
}
