// Package netfilter finds the rules of this host's firewall that would drop
// packets for a VIP, and cannot: a packet path in XDP has them before
// netfilter does. Whoever comes from IPVS, which sits behind the INPUT chain,
// relies on such rules.
//
// The package reads nf_tables (which iptables-nft fills, too), the chains of
// the prerouting and input hooks. It warns, it never changes a rule, and it
// is no firewall: of a rule it understands addresses, protocols, ports and
// incoming interfaces. Other conditions are ignored, so that a warning says
// "some packets"; a rule that has nothing but such conditions says nothing
// about a VIP. Of iptables-legacy and ip6tables-legacy it reads the marks and the NAT; of its other rules only
// their presence is told.
//
// It also reads which packets get which mark, so that a service by mark can be
// served without the firewall (see [Reader.Marks]).
package netfilter
