// Package handover shares connections between lvx and the kernel's IPVS, in both
// directions and at size: what one of them has opened, the other one goes on
// with. A second kernel beside lvx says what the kernel itself makes of the same
// datagrams. A pair of keepalived and the kernel's IPVS becomes one of lvx as
// docs/migrate.md says.
//
// Its tests are built with the tag ipvsvm and run in a guest (testenv/vm/lane),
// which has the daemon as /t/lvx. They drive lvx from outside, as an operator
// does.
package handover
