// Package vip puts virtual addresses on interfaces, takes them off again, and
// remembers what was there before: what was, stays. Routes and rules that belong
// to VIPs go with them.
//
// It changes many addresses in one message, notices when somebody else
// changes them, and knows which interface an address belongs to. It decides
// neither which VIPs this host should have (pkg/director, pkg/vrrp) nor who
// hears of them (pkg/neigh).
package vip
