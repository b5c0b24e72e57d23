// Package ipvsadm speaks ipvsadm 1.31: it prints the listings that ipvsadm
// prints, byte for byte.
//
// It is pure: it asks no name server, opens no file and knows no daemon. Who
// calls it brings the names of hosts and ports.
package ipvsadm
