package lb

// MarkRules is what the host's firewall says of a mark: which packets get it.
type MarkRules struct {
	Mark      uint32
	Listeners []Listener
	Origins   []string // for each listener the rule that it is from
	Condition string   // what a rule asks that no listener can express, "" for nothing
}
