// Package director decides what the kernel should hold, and sees to it that
// it does.
//
// [Plan] is pure: configuration, health, VRRP roles and operator overrides
// in, an [lb.State] and the reasons for it out. [Director] is the one loop
// around it: one goroutine owns the state and the backend, events coalesce,
// the latest wins. The package talks to health, VRRP, addresses and
// notifications through small interfaces; it opens no socket and knows no
// kernel. It does not pick reals for packets: that is the backend's.
package director
