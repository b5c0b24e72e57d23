// Package ipvsadm speaks ipvsadm 1.31: it understands command lines and rule
// files, answers them as the kernel's table does, and prints the listings that
// ipvsadm prints, byte for byte.
//
// It is pure: it asks no name server, opens no file and knows no daemon. Who
// calls it brings the names of hosts and ports, and the [Director] that
// carries commands out. The one trap: what ipvsadm does depends on the order
// of the options, and [Parse] mirrors that.
package ipvsadm
