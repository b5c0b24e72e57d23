package daemon

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/connsync"
)

// mostTable is a table that counts how much it takes at once.
type mostTable struct {
	quietTable
	most int
}

func (t *mostTable) Absorb(batch *connsync.Batch) (int, error) {
	t.most = max(t.most, len(batch.Members))
	return t.quietTable.Absorb(batch)
}

// A long list of a kernel's connections is taken in parts: the table is free in between.
func TestImportInParts(t *testing.T) {
	const count = 2*importedAtOnce + 1
	var list strings.Builder
	for i := range count {
		fmt.Fprintf(&list, "TCP AC10%04X 03E9 0A000064 0050 0A000005 0050 ESTABLISHED 897\n", i)
	}
	list.WriteString("SCTP AC100004 03EC 0A000064 0035 0A000004 0035 COOKIE_WAIT 3\n")
	table := &mostTable{quietTable: quietTable{taken: map[netip.AddrPort]bool{}}}
	s := &syncDaemons{feed: &newsFeed{table: table}}
	taken, rejected, err := s.Import(strings.NewReader(list.String()))
	if err != nil || taken != count || rejected != 1 || len(table.taken) != count || table.most > importedAtOnce {
		t.Errorf("%d taken, %d rejected, %d in the table, at most %d at once: %v", taken, rejected, len(table.taken), table.most, err)
	}
}
