-- Items of training sets that lie on both sides of their split (train against validation and test), one row a kind,
-- each with its nearest counterpart. A set made with --leaks drop has none: what was dropped is in training_set_leaks.
select
    l.training_set,
    s.dataset,
    s.protocol,
    l.fold,
    l.kind,
    l.part,
    l.item_id,
    l.image_id,
    l.counterpart_part,
    l.counterpart_item_id,
    l.counterpart_image_id,
    l.distance
from training_set_leaks l
join training_sets s on s.name = l.training_set
where s.leaks <> 'drop'
