// Package wiring runs lvx on directors as they are wired: VIPs on a bond and on a
// VLAN of a bond, clients and reals on two NICs, the NIC of a virtual machine.
// Where frames are lost on their way out, that is counted.
//
// Its tests are built with the tag ipvsvm and run in a guest (testenv/vm/lane),
// whose kernel has the devices and which has the daemon as /t/lvx. They drive lvx
// from outside, as an operator does.
package wiring
