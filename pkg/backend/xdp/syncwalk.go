package xdp

import (
	"context"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/connsync"
)

// Walk implements [connsync.Table].
func (b *Backend) Walk(ctx context.Context, yield func(*connsync.Batch) error) error {
	var batch connsync.Batch
	b.mu.Lock()
	all := [2][2]table{b.flowTables(), b.templateTables()}
	b.mu.Unlock()
	for kind, tables := range all {
		for _, t := range tables {
			for set := 0; set < t.sets(); {
				set = b.readPart(&batch, t, kind == 1, set)
				if len(batch.Members) > 0 {
					if err := yield(&batch); err != nil {
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

// readPart puts what peers are told of the entries in a part of a table, from first
// on, into a batch, and returns the set to go on with.
func (b *Backend) readPart(batch *connsync.Batch, table table, isOfTemplates bool, first int) (next int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flowTables() // what has been read of them is old
	batch.Reset()
	t := b.newTeller(batch)
	set := first
	for ; set < min(first+walkSets, table.sets()) && len(batch.Members) < walkEntries; set++ {
		words := table.wordsOf(set)
		if emptyValues(words[bpf.Ways : 2*bpf.Ways]) {
			continue
		}
		for way := range bpf.Ways {
			if isOfTemplates {
				if e, client, word, isLive := table.read(set, way); isLive {
					t.tellTemplate(e, client, bpf.TemplateValue(word))
				}
				continue
			}
			v := bpf.FlowValue(load64(&words[bpf.Ways+way]))
			if !v.IsLive() {
				continue
			}
			key, client := load64(&words[way]), clientBytes(words, way, table.isIPv6())
			if bpf.FlowValue(load64(&words[bpf.Ways+way])).Nonce() == v.Nonce() { // else another has come, which is news
				t.tellFlow(bpf.FlowKey(key), client, table.isIPv6(), v)
			}
		}
	}
	return set
}
