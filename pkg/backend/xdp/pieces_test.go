package xdp

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Large tables of flows lie in pieces: what is tested with small ones holds there.
func TestInPieces(t *testing.T) {
	*allInPieces = true
	defer func() { *allInPieces = false }()
	if os.Getenv("LVX_ORACLE_STEPS") == "" { // the plain tables' runs are the long ones
		t.Setenv("LVX_ORACLE_STEPS", strconv.Itoa(oracleSteps/5))
	}
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
		t.Run(fmt.Sprintf("pieces from %d", from), func(t *testing.T) { knowsOneKind(t, from) })
	}
}

func knowsOneKind(t *testing.T, piecesFrom int) {
	h := openHarness(t, Options{Flows: 1024, Templates: 1024, StillClock: true, PiecesFrom: piecesFrom})
	info, err := h.dp.Program("lvx0").Info()
	must(t, err)
	all, err := info.Instructions()
	must(t, err)
	idOf := func(m *ebpf.Map) uint32 {
		info, err := m.Info()
		must(t, err)
		id, _ := info.ID()
		return uint32(id)
	}
	of := func(id uint32) (n int) {
		for _, ins := range firstFunction(all) {
			if ins.OpCode.IsDWordLoad() && ins.Src == asm.PseudoMapFD && uint32(ins.Constant) == id {
				n++
			}
		}
		return n
	}
	pieces, array := of(idOf(h.dp.Maps.FlowPieces)), of(idOf(h.dp.Maps.Flows))
	if inPieces := piecesFrom == 1; (pieces > 0) != inPieces || (array > 0) == inPieces {
		t.Errorf("the short way has the pieces %d times, the plain table %d times", pieces, array)
	}
}
