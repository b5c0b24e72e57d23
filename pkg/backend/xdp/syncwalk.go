package xdp

import (
	"context"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/connsync"
)

// Walk implements [connsync.Table].
func (b *Backend) Walk(ctx context.Context, yield func([]connsync.Entry) error) error {
	var entries []connsync.Entry
	for kind, tables := range [2][2]table{b.flowTables(), b.templateTables()} {
		for _, t := range tables {
			for set := 0; set < t.sets(); set += walkSets {
				entries = b.readPart(entries[:0], t, kind == 1, set)
				if len(entries) > 0 {
					if err := yield(entries); err != nil {
						return err
					}
				}
				if err := ctx.Err(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// readPart appends what peers are told of the entries in walkSets sets of a table,
// from first on.
func (b *Backend) readPart(entries []connsync.Entry, table table, isOfTemplates bool, first int) []connsync.Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.newTeller()
	for set := first; set < min(first+walkSets, table.sets()); set++ {
		if table.isEmpty(set) {
			continue
		}
		for way := range bpf.Ways {
			e, client, word, isLive := table.read(set, way)
			switch {
			case !isLive:
			case isOfTemplates:
				t.appendTemplate(&entries, e, client, bpf.TemplateValue(word))
			default:
				t.appendFlow(&entries, bpf.FlowKey(e.key), client, bpf.FlowValue(word))
			}
		}
	}
	return entries
}
