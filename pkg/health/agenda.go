package health

import "container/heap"

// agenda is a heap of probes, the next one due first.
type agenda []*probe

func (a *agenda) push(p *probe) { heap.Push((*byDue)(a), p) }

func (a *agenda) pop() *probe { return heap.Pop((*byDue)(a)).(*probe) }

func (a *agenda) remove(p *probe) {
	if p.index >= 0 {
		heap.Remove((*byDue)(a), p.index)
	}
}

// byDue is container/heap's view of an agenda.
type byDue []*probe

func (a byDue) Len() int           { return len(a) }
func (a byDue) Less(i, j int) bool { return a[i].due < a[j].due }
func (a byDue) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].index, a[j].index = i, j
}

func (a *byDue) Push(x any) {
	p := x.(*probe)
	p.index = len(*a)
	*a = append(*a, p)
}

func (a *byDue) Pop() any {
	old := *a
	p := old[len(old)-1]
	old[len(old)-1] = nil
	*a = old[:len(old)-1]
	p.index = -1
	return p
}
