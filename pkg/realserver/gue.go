package realserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/kernellist"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// GUE is IPv4 in UDP (generic UDP encapsulation) at port 6080. "gue:5555" is
// another port.
const GUE Tunnel = "gue"

// guePort is the port where packets in GUE come; 0 of another tunnel.
func (t Tunnel) guePort() int {
	if t == GUE {
		return lb.GUEPort
	}
	text, isGUE := strings.CutPrefix(string(t), string(GUE)+":")
	port, err := strconv.ParseUint(text, 10, 16)
	if !isGUE || err != nil {
		return 0
	}
	return int(port)
}

// IsTunnel reports whether lvx sets a tunnel up.
func (t Tunnel) IsTunnel() bool { return t == IPIP || t.guePort() != 0 }

// overhead is how much longer a packet is in the tunnel: an IPv4 header, and for
// GUE those of UDP and of GUE itself (the kernel's __ip_vs_get_out_rt).
func (t Tunnel) overhead() int {
	if t.guePort() != 0 {
		return 20 + 8 + 4
	}
	return 20
}

// errNoGUE is returned where the kernel takes nothing out of UDP.
var errNoGUE = errors.New("this kernel has no GUE (CONFIG_NET_FOU; where it is a module: modprobe fou); use ipip")

// hasPort reports whether the kernel takes packets out of GUE at a port.
func hasPort(port int) (bool, error) {
	ports, err := kernellist.Complete(func() ([]netlink.Fou, error) { return netlink.FouList(unix.AF_INET) })
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, errNoGUE // no such family of generic netlink
	case err != nil:
		return false, fmt.Errorf("ports of GUE: %w", err)
	}
	return slices.ContainsFunc(ports, func(f netlink.Fou) bool { return f.Port == port && f.EncapType == netlink.FOU_ENCAP_GUE }), nil
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
func (r *reporter) openPort(s *state, port int) error {
	isOpen, err := hasPort(port)
	if errors.Is(err, errNoGUE) {
		loadGUE()
		isOpen, err = hasPort(port)
	}
	if err != nil || isOpen {
		return err
	}
	s.Ports = append(s.Ports, port)
	if err := s.save(); err != nil {
		return err
	}
	if err := addPort(port); err != nil {
		return fmt.Errorf("port %d of GUE: %w", port, err)
	}
	r.say("udp %d: packets are taken out of GUE", port)
	return nil
}

// addPort opens a port. [netlink.FouAdd] names a protocol, 0 for GUE, which kernels
// refuse since they look at it (ERANGE).
func addPort(port int) error {
	family, err := netlink.FouFamilyId()
	if err != nil {
		return err
	}
	request := nl.NewNetlinkRequest(family, unix.NLM_F_ACK)
	message := []byte{netlink.FOU_CMD_ADD, 1, 0, 0} // begins with the header of generic netlink
	for _, a := range []*nl.RtAttr{
		nl.NewRtAttr(netlink.FOU_ATTR_PORT, binary.BigEndian.AppendUint16(nil, uint16(port))),
		nl.NewRtAttr(netlink.FOU_ATTR_TYPE, []byte{netlink.FOU_ENCAP_GUE}),
		nl.NewRtAttr(netlink.FOU_ATTR_AF, []byte{unix.AF_INET}),
	} {
		message = append(message, a.Serialize()...)
	}
	request.AddRawData(message)
	_, err = request.Execute(unix.NETLINK_GENERIC, 0)
	return err
}

// closePorts closes the ports that lvx has opened and no VIP needs any more.
func (r *reporter) closePorts(s *state) error {
	isNeeded := func(port int) bool {
		return slices.ContainsFunc(s.VIPs, func(v record) bool { return v.Tunnel.guePort() == port })
	}
	for _, port := range slices.Clone(s.Ports) {
		if isNeeded(port) {
			continue
		}
		if isOpen, err := hasPort(port); err != nil {
			return err
		} else if isOpen {
			if err := netlink.FouDel(netlink.Fou{Family: unix.AF_INET, Port: port}); err != nil {
				return fmt.Errorf("port %d of GUE: close: %w", port, err)
			}
			r.say("udp %d: closed again", port)
		}
		s.Ports = slices.DeleteFunc(s.Ports, func(p int) bool { return p == port })
		if err := s.save(); err != nil {
			return err
		}
	}
	return nil
}
