package connsync

import (
	"net/netip"
	"testing"
)

// A director speaks from its address that the list of directors has, also where its
// interface has a VIP before it: the other one knows no other address.
func TestAddressOfTheList(t *testing.T) {
	port := freePort(t)
	vips := []netip.Addr{netip.MustParseAddr("127.0.0.9"), netip.MustParseAddr("127.0.0.99")} // below and above the others
	directors := []netip.Addr{one, two}
	var meshes []*Mesh
	for i, own := range directors {
		meshes = append(meshes, startOf(t, Options{
			Local: []netip.Addr{vips[1-i], own}, Peers: directors, Port: port, Keys: []Key{keyA}, Table: newMemory(),
		}))
	}
	eventually(t, "both are in sync", func() bool { return meshes[0].InSync() && meshes[1].InSync() })
}
