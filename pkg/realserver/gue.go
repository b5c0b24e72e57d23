package realserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/kernellist"
)

// errNoGUE is returned where the kernel takes nothing out of UDP.
var errNoGUE = errors.New("this kernel has no GUE (CONFIG_NET_FOU; where it is a module: modprobe fou); use ipip")

// hasPort reports whether the kernel takes packets out of GUE at a port of a family.
func hasPort(family, port int) (bool, error) {
	ports, err := kernellist.Complete(func() ([]netlink.Fou, error) { return netlink.FouList(family) })
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, errNoGUE // no such family of generic netlink
	case err != nil:
		return false, fmt.Errorf("ports of GUE: %w", err)
	}
	return slices.ContainsFunc(ports, func(f netlink.Fou) bool {
		return f.Family == family && f.Port == port && f.EncapType == netlink.FOU_ENCAP_GUE
	}), nil
}

// loadTime bounds how long loading a module takes.
const loadTime = 30 * time.Second

// loadGUE loads the kernel's module, which the kernel does not do by itself when
// it is asked for a port. Where there is none, hasPort says so.
func loadGUE() {
	ctx, cancel := context.WithTimeout(context.Background(), loadTime)
	defer cancel()
	_ = exec.CommandContext(ctx, "modprobe", "fou").Run()
}

// openPort makes the kernel take packets out of GUE.
func (r *reporter) openPort(s *state, family, port int) error {
	isOpen, err := hasPort(family, port)
	if errors.Is(err, errNoGUE) {
		loadGUE()
		isOpen, err = hasPort(family, port)
	}
	if err != nil || isOpen {
		return err
	}
	list := s.ports(family)
	*list = append(*list, port)
	if err := s.save(); err != nil {
		return err
	}
	if err := addPort(family, port); err != nil {
		return fmt.Errorf("port %d of GUE: %w", port, err)
	}
	r.say("udp %d: packets are taken out of GUE", port)
	return nil
}

// addPort opens a port. [netlink.FouAdd] names a protocol, 0 for GUE, which kernels
// refuse since they look at it (ERANGE).
func addPort(family, port int) error {
	id, err := netlink.FouFamilyId()
	if err != nil {
		return err
	}
	request := nl.NewNetlinkRequest(id, unix.NLM_F_ACK)
	message := []byte{netlink.FOU_CMD_ADD, 1, 0, 0} // begins with the header of generic netlink
	for _, a := range []*nl.RtAttr{
		nl.NewRtAttr(netlink.FOU_ATTR_PORT, binary.BigEndian.AppendUint16(nil, uint16(port))),
		nl.NewRtAttr(netlink.FOU_ATTR_TYPE, []byte{netlink.FOU_ENCAP_GUE}),
		nl.NewRtAttr(netlink.FOU_ATTR_AF, []byte{byte(family)}),
	} {
		message = append(message, a.Serialize()...)
	}
	request.AddRawData(message)
	_, err = request.Execute(unix.NETLINK_GENERIC, 0)
	return err
}

// closePorts closes the ports that lvx has opened and no VIP needs any more.
func (r *reporter) closePorts(s *state) error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		list := s.ports(family)
		for _, port := range slices.Clone(*list) {
			if slices.ContainsFunc(s.VIPs, func(v record) bool { return v.Tunnel.port() == port && v.Tunnel.family() == family }) {
				continue
			}
			if err := r.closePort(family, port); err != nil {
				return err
			}
			*list = slices.DeleteFunc(*list, func(p int) bool { return p == port })
			if err := s.save(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *reporter) closePort(family, port int) error {
	isOpen, err := hasPort(family, port)
	if err != nil || !isOpen {
		return err
	}
	if err := netlink.FouDel(netlink.Fou{Family: family, Port: port}); err != nil {
		return fmt.Errorf("port %d of GUE: close: %w", port, err)
	}
	r.say("udp %d: closed again", port)
	return nil
}
