package realserver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/kernellist"
)

// What a client sends by a tunnel is longer on its last stretch. A real that
// offers shorter segments is spared the detour by ICMP, which many networks
// lose: a rule for each VIP lowers what SYN and SYN+ACK offer.

// segmentTable is the table of the rules, one of each family.
const segmentTable = "lvx_real"

// segmentFamily is where the rules for VIPs of one family are.
type segmentFamily struct {
	family    nftables.TableFamily // its number is the address family's
	table     string               // as nft names it
	route     string               // ip's option
	source    uint32               // offset of the address in the IP header
	headerLen int                  // what IP and TCP have in front of a segment
}

var segmentFamilies = [...]segmentFamily{
	{nftables.TableFamilyIPv4, "ip " + segmentTable, "", 12, 40},
	{nftables.TableFamilyIPv6, "ip6 " + segmentTable, " -6", 8, 60},
}

// segmentsOf is the family of a VIP.
func segmentsOf(vip netip.Addr) segmentFamily {
	if vip.Is6() {
		return segmentFamilies[1]
	}
	return segmentFamilies[0]
}

// lowerSegments sets the rules that the VIPs need. A kernel without nf_tables
// gets none, and the report says what helps as well.
func (r *reporter) lowerSegments(s *state) error {
	for _, f := range segmentFamilies {
		if err := r.lowerSegmentsOf(f, s); err != nil {
			return err
		}
	}
	return nil
}

func (r *reporter) lowerSegmentsOf(f segmentFamily, s *state) error {
	want := map[netip.Addr]uint16{}
	have, err := f.rules()
	for _, v := range s.VIPs {
		if v.Tunnel == "" || segmentsOf(v.Addr) != f {
			continue
		}
		link, err := netlink.LinkByName(v.Interface)
		switch {
		case errors.As(err, new(netlink.LinkNotFoundError)):
			if have[v.Addr] != 0 {
				want[v.Addr] = have[v.Addr]
			}
			continue
		case err != nil:
			return fmt.Errorf("interface %s: %w", v.Interface, err)
		}
		want[v.Addr] = f.longest(v.Tunnel, link.Attrs().MTU)
	}
	if err == nil && maps.Equal(have, want) {
		return nil
	}
	if err == nil {
		err = f.setRules(want)
	}
	r.sayLeftBehind(f, have, want, err)
	for _, v := range s.VIPs {
		switch size := want[v.Addr]; {
		case size == have[v.Addr]:
		case err != nil:
			r.say("%s: MSS not lowered (%v): ip%s route change default ... advmss %d", v.Addr, err, f.route, size)
		default:
			r.say("%s: MSS at most %d (table %s)", v.Addr, size, f.table)
		}
	}
	return nil
}

// sayLeftBehind says which rules the kernel did not let go. One without
// nf_tables has none.
func (r *reporter) sayLeftBehind(f segmentFamily, have, want map[netip.Addr]uint16, err error) {
	if err == nil || hasNoTables(err) {
		return
	}
	if len(want) == 0 {
		r.say("table %s not removed (%v): nft delete table %s", f.table, err, f.table)
		return
	}
	for _, addr := range slices.SortedFunc(maps.Keys(have), netip.Addr.Compare) {
		if want[addr] == 0 {
			r.say("%s: rule of table %s not removed (%v)", addr, f.table, err)
		}
	}
}

// hasNoTables reports whether an error of listing tables says that the kernel has
// no netlink of netfilter, or no nf_tables behind it (nfnetlink_rcv_msg).
func hasNoTables(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL)
}

// longest is the longest segment that fits a tunnel over a link.
func (f segmentFamily) longest(t Tunnel, mtu int) uint16 {
	return uint16(min(max(mtu-t.overhead()-f.headerLen, 0), 0xffff))
}

// setRules replaces the table by one with a rule for each VIP:
//
//	ip saddr VIP tcp flags & syn != 0 tcp option maxseg size set N
//
// The kernel only lowers what is there.
func (f segmentFamily) setRules(want map[netip.Addr]uint16) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	tab := c.AddTable(&nftables.Table{Name: segmentTable, Family: f.family})
	c.DelTable(tab)
	if len(want) > 0 {
		c.AddTable(tab)
		chain := c.AddChain(&nftables.Chain{
			Name: "output", Table: tab, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityMangle,
		})
		for vip, size := range want {
			c.AddRule(&nftables.Rule{Table: tab, Chain: chain, Exprs: f.rule(vip, size)})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	return nil
}

// Where the rule finds what it looks at, and the option that it changes.
const (
	flagsOffset  = 13 // in the TCP header
	synFlag      = 2
	maxSegOption = 2
)

func (f segmentFamily) rule(vip netip.Addr, size uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.source, Len: uint32(vip.BitLen() / 8)},
		&expr.Cmp{Register: 1, Op: expr.CmpOpEq, Data: vip.AsSlice()},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Register: 1, Op: expr.CmpOpEq, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flagsOffset, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{synFlag}, Xor: []byte{0}},
		&expr.Cmp{Register: 1, Op: expr.CmpOpNeq, Data: []byte{0}},
		&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, size)},
		&expr.Exthdr{SourceRegister: 1, Type: maxSegOption, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt},
	}
}

// rules reads the rules that are there.
func (f segmentFamily) rules() (map[netip.Addr]uint16, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nf_tables: %w", err)
	}
	tables, err := c.ListTablesOfFamily(f.family)
	if err != nil {
		return nil, fmt.Errorf("nf_tables: %w", err)
	}
	found := map[netip.Addr]uint16{}
	i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == segmentTable })
	if i < 0 {
		return found, nil
	}
	rules, err := c.GetRules(tables[i], &nftables.Chain{Name: "output", Table: tables[i]})
	if err != nil {
		return nil, fmt.Errorf("nf_tables: table %s: %w", f.table, err)
	}
	for _, rule := range rules {
		var vip netip.Addr
		for _, e := range rule.Exprs {
			switch e := e.(type) {
			case *expr.Cmp:
				if a, ok := netip.AddrFromSlice(e.Data); ok {
					vip = a
				}
			case *expr.Immediate:
				if len(e.Data) >= 2 {
					found[vip] = binary.BigEndian.Uint16(e.Data)
				}
			}
		}
	}
	return found, nil
}

// judgeSegment reports whether what this host offers clients of v fits the tunnel.
// The zero Setting is returned where the interface that v faces is not known.
func judgeSegment(v VIP) (Setting, error) {
	if v.Interface == "" {
		return Setting{}, nil
	}
	link, err := netlink.LinkByName(v.Interface)
	if err != nil {
		return Setting{}, fmt.Errorf("interface %s: %w", v.Interface, err)
	}
	f := segmentsOf(v.Addr)
	fits := int(f.longest(v.Tunnel, link.Attrs().MTU))
	offered, err := f.offered(link)
	if err != nil {
		return Setting{}, err
	}
	s := Setting{Name: "MSS of " + v.Addr.String(), Value: offered, Want: fmt.Sprint(fits), Faulty: offered > fits}
	if !s.Faulty {
		return s, nil // whatever the rules are
	}
	rules, err := f.rules()
	switch {
	case errors.Is(err, unix.EPERM):
		s.UnreadTable, s.Faulty = "table "+f.table, false
	case err != nil && !hasNoTables(err):
		return Setting{}, err
	case rules[v.Addr] != 0:
		s.Value = min(offered, int(rules[v.Addr]))
		s.Faulty = s.Value > fits
	}
	return s, nil
}

// offered is the longest segment that the routes by an interface offer. Clients
// have no link-local addresses.
func (f segmentFamily) offered(link netlink.Link) (int, error) {
	routes, err := kernellist.Complete(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(int(f.family), &netlink.Route{Table: unix.RT_TABLE_MAIN, LinkIndex: link.Attrs().Index},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
	})
	if err != nil {
		return 0, fmt.Errorf("routes of %s: %w", link.Attrs().Name, err)
	}
	longest := 0
	for _, r := range routes {
		if r.Dst != nil && r.Dst.IP.IsLinkLocalUnicast() {
			continue
		}
		mtu := link.Attrs().MTU
		if r.MTU != 0 {
			mtu = min(mtu, r.MTU)
		}
		segment := mtu - f.headerLen
		if r.AdvMSS != 0 {
			segment = r.AdvMSS
		}
		longest = max(longest, segment)
	}
	return longest, nil
}
