package xdp

import (
	"testing"

	"github.com/cilium/ebpf/asm"
)

// Large tables of flows lie in pieces: what is tested with small ones holds there.
func TestInPieces(t *testing.T) {
	*allInPieces = true
	defer func() { *allInPieces = false }()
	if h := newStill(t, 1024, 1024); h.dp.Pieces(0) == nil {
		t.Fatal("the table is plain")
	}
	for name, test := range map[string]func(*testing.T){
		"Oracle": TestOracle, "Oracle6": TestOracle6, "Expiry": TestExpiryShowsInTime, "Young": TestSweeperForgetsNoYoungConnection, "End": TestSweeperForgetsInTheEnd, "Flood": TestFlood, "StatedCapacity": TestStatedCapacity,
		"Sync": TestSyncedConnectionsGoOnElsewhere, "Sync6": TestSyncedConnectionsOfIPv6GoOnElsewhere,
		"SyncedStates": TestSyncedStatesAndTimes, "Adopted": TestAdoptedTableIsToldOfInParts, "Unsigned": TestUnsignedWordHarmsNoProvenFlow,
		"Twins": TestPeersProveNoTwins, "NAT": TestNATBothWaysAtOnce, "List": TestListMarksWhatPeersToldOf,
	} {
		t.Run(name, test)
	}
}

// The short way of a plain table has nothing of tables in pieces: the verifier has
// taken it away.
func TestShortWayOfPlainTablesKnowsNoPieces(t *testing.T) {
	for _, from := range []int{0, 1} {
		h := openHarness(t, Options{Flows: 1024, Templates: 1024, StillClock: true, PiecesFrom: from})
		info, err := h.dp.Program("lvx0").Info()
		must(t, err)
		all, err := info.Instructions()
		must(t, err)
		pieces, err := h.dp.Maps.FlowPieces.Info()
		must(t, err)
		array, err := h.dp.Maps.Flows.Info()
		must(t, err)
		of := func(id uint32) (n int) {
			for _, ins := range firstFunction(all) {
				if ins.OpCode.IsDWordLoad() && ins.Src == asm.PseudoMapFD && uint32(ins.Constant) == id {
					n++
				}
			}
			return n
		}
		piecesID, _ := pieces.ID()
		arrayID, _ := array.ID()
		if inPieces := from == 1; (of(uint32(piecesID)) > 0) != inPieces || (of(uint32(arrayID)) > 0) == inPieces {
			t.Errorf("pieces from %d: the short way has the pieces %d times, the plain table %d times", from, of(uint32(piecesID)), of(uint32(arrayID)))
		}
	}
}
