package hostinfo

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/kernellist"
)

// VLAN is an interface of a VLAN (802.1Q).
type VLAN struct {
	Name        string // eth0.100
	Index       int
	ID          uint16
	Device      string // eth0
	DeviceIndex int
}

// VLANs lists those of the calling thread's network namespace. A host that has
// never had one is not asked for its interfaces.
func VLANs() (all []VLAN) {
	if _, err := os.Stat("/proc/thread-self/net/vlan"); err != nil {
		return nil
	}
	links, err := kernellist.Complete(netlink.LinkList)
	if err != nil {
		return nil
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range links {
		v, ok := l.(*netlink.Vlan)
		if !ok || v.VlanProtocol != netlink.VLAN_PROTOCOL_8021Q || names[v.ParentIndex] == "" {
			continue
		}
		all = append(all, VLAN{Name: v.Name, Index: v.Index, ID: uint16(v.VlanId), Device: names[v.ParentIndex], DeviceIndex: v.ParentIndex})
	}
	return all
}

// VLANOf finds the VLAN that an interface is of.
func VLANOf(name string) (v VLAN, ok bool) {
	for _, v := range VLANs() {
		if v.Name == name {
			return v, true
		}
	}
	return VLAN{}, false
}

// CannotServe returns why XDP on the interface below a VLAN cannot serve its frames:
// they come without their tag, or native mode would not run there.
func CannotServe(v VLAN) error {
	own, err := netlink.LinkByName(v.Name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", v.Name, err)
	}
	below, err := netlink.LinkByName(v.Device)
	if err != nil {
		return fmt.Errorf("interface %s: %w", v.Device, err)
	}
	if !bytes.Equal(own.Attrs().HardwareAddr, below.Attrs().HardwareAddr) {
		return fmt.Errorf("%s has another MAC than %s", v.Name, v.Device)
	}
	if i := examineInterface(v.Device); !i.Native {
		return fmt.Errorf("driver %s of %s is not known to do XDP", i.Driver, v.Device)
	}
	if err := TakesTags(v.Device); err != nil {
		return err
	}
	if err := CannotSend(v.Device); err != nil {
		return fmt.Errorf("%s: %w", v.Device, err)
	}
	return nil
}

// errNoTags is why XDP does not see what VLAN frames are of.
var errNoTags = errors.New("takes VLAN tags out of frames before XDP sees them")

// TakesTags returns which interface takes VLAN tags out of the frames that
// XDP sees on this one: that itself, or of a bond its ports; nil if none does.
func TakesTags(name string) error {
	ports := []string{name}
	if link, err := netlink.LinkByName(name); err == nil && link.Type() == "bond" {
		ports = nil // a bond has the same flag, and no frames of its own
		links, _ := kernellist.Complete(netlink.LinkList)
		for _, l := range links {
			if l.Attrs().MasterIndex == link.Attrs().Index {
				ports = append(ports, l.Attrs().Name)
			}
		}
	}
	for _, port := range ports {
		if askEthtool(port, unix.ETHTOOL_GFLAGS)&flagRXVLAN != 0 {
			return fmt.Errorf("%s %w (ethtool -K %s rxvlan off)", port, errNoTags, port)
		}
	}
	return nil
}
