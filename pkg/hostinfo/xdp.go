package hostinfo

import (
	"errors"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// What the kernel says about XDP since 6.3 (include/uapi/linux/netdev.h,
// Documentation/netlink/specs/netdev.yaml).
const (
	netdevFamily      = "netdev"
	netdevCmdDevGet   = 1
	netdevAttrIfindex = 1
	netdevAttrXDP     = 3
	xdpBasic          = 1  // NETDEV_XDP_ACT_BASIC
	xdpFrags          = 32 // NETDEV_XDP_ACT_RX_SG
)

// xdpFeatures asks the kernel what an interface's driver can do.
func xdpFeatures(index int) (uint64, error) {
	family, err := netlink.GenlFamilyGet(netdevFamily)
	if err != nil {
		return 0, err
	}
	req := nl.NewNetlinkRequest(int(family.ID), 0)
	req.AddData(&nl.Genlmsg{Command: netdevCmdDevGet, Version: uint8(family.Version)})
	req.AddData(nl.NewRtAttr(netdevAttrIfindex, nl.Uint32Attr(uint32(index))))
	msgs, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return 0, err
	}
	for _, m := range msgs {
		if len(m) < nl.SizeofGenlmsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofGenlmsg:])
		if err != nil {
			return 0, err
		}
		for _, a := range attrs {
			if a.Attr.Type == netdevAttrXDP && len(a.Value) == 8 {
				return nl.NativeEndian().Uint64(a.Value), nil
			}
		}
	}
	return 0, errors.New("no answer about XDP")
}

// nativeDrivers do XDP, for kernels that cannot be asked (before 6.3).
var nativeDrivers = func() map[string]bool {
	known := map[string]bool{}
	for _, d := range strings.Fields(`
		atlantic bnxt_en bonding cpsw dpaa2-eth ena fec fsl_dpaa fsl_enetc funeth gve
		hv_netvsc i40e iavf ice igb igc ixgbe ixgbevf lan966x-switch mana mlx4_en mlx5_core
		mtk_soc_eth mvneta mvpp2 netsec nfp nicvf octeontx2-nicpf qede sfc stmmac
		tsnep tun veth virtio_net vmxnet3 xen-netfront`) {
		known[d] = true
	}
	return known
}()
