"""Facts of the CrossFit benchmark of 160 tasks: the metric of each, and the splits of the unified-subspace paper.

Source: Ye, Lin and Ren, EMNLP 2021 (arXiv 2104.08835), the published table of metrics; Yi et al., Findings of EMNLP 2022
(arXiv 2210.13311), the published list of training tasks. Names are the benchmark's folder names.
"""


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_BY_METRIC = {
    "accuracy": """
        ai2_arc aqua_rat art blimp-anaphor_gender_agreement blimp-anaphor_number_agreement
        blimp-determiner_noun_agreement_with_adj_irregular_1 blimp-ellipsis_n_bar_1 blimp-ellipsis_n_bar_2
        blimp-existential_there_quantifiers_1 blimp-irregular_past_participle_adjectives
        blimp-sentential_negation_npi_licensor_present blimp-sentential_negation_npi_scope blimp-wh_questions_object_gap boolq
        commonsense_qa cosmos_qa crows_pairs definite_pronoun_resolution dream glue-mnli glue-mrpc glue-qnli glue-qqp glue-rte
        glue-sst2 glue-wnli google_wellformed_query hellaswag kilt_fever math_qa mc_taco medical_questions_pairs openbookqa piqa qasc
        quail quarel quartz-no_knowledge quartz-with_knowledge race-high race-middle sciq social_i_qa superglue-cb superglue-copa
        superglue-rte superglue-wic superglue-wsc swag wino_grande wiqa""",
    "classification_f1": """
        ade_corpus_v2-classification ag_news amazon_polarity anli circa climate_fever codah dbpedia_14 discovery emo emotion
        ethos-directed_vs_generalized ethos-disability ethos-gender ethos-national_origin ethos-race ethos-religion
        ethos-sexual_orientation financial_phrasebank hate_speech18 hate_speech_offensive hatexplain health_fact imdb liar
        onestop_english paws poem_sentiment rotten_tomatoes scicite scitail sick sms_spam tab_fact trec trec-finegrained
        tweet_eval-emoji tweet_eval-emotion tweet_eval-hate tweet_eval-irony tweet_eval-offensive tweet_eval-sentiment
        tweet_eval-stance_abortion tweet_eval-stance_atheism tweet_eval-stance_climate tweet_eval-stance_feminist
        tweet_eval-stance_hillary wiki_auto wiki_qa yahoo_answers_topics yelp_polarity""",
    "exact_match": """
        acronym_identification ade_corpus_v2-dosage ade_corpus_v2-effect aslg_pc12 break-QDMR break-QDMR-high-level crawl_domain
        freebase_qa jeopardy kilt_ay2 kilt_hotpotqa kilt_nq kilt_trex kilt_zsre lama-conceptnet lama-google_re lama-squad lama-trex
        limit numer_sense proto_qa qa_srl search_qa spider squad-no_context superglue-multirc web_questions wikisql""",
    "rouge_l": """
        aeslc common_gen cos_e e2e_nlg_cleaned eli5-askh eli5-asks eli5-eli5 empathetic_dialogues gigaword kilt_wow multi_news
        reddit_tifu-title reddit_tifu-tldr samsum wiki_bio wiki_split xsum""",
    "qa_f1": "adversarialqa biomrc duorc hotpot_qa quoref ropes squad-with_context superglue-record tweet_qa",
    "pearson": "app_reviews mocha yelp_review_full",
    "matthews": "glue-cola",
}

TASK_METRICS: dict[str, str] = {task: metric for metric, tasks in _BY_METRIC.items() for task in _names(tasks)}
"""Task name → name in `METRICS`."""

SINGLE_TASK_PAIRS: dict[str, tuple[str, ...]] = {
    "glue-sst2": ("rotten_tomatoes", "amazon_polarity"),
    "glue-mnli": ("scitail", "glue-rte"),
    "superglue-wic": ("superglue-wsc",),
    "glue-qqp": ("glue-mrpc",),
    "eli5-eli5": ("eli5-askh", "eli5-asks"),
    "dream": ("codah", "quartz-no_knowledge", "superglue-copa"),
}
"""The paper's single-task setting: source → unseen targets. It says only RTE and QuaRTz; which of the benchmark's two variants of
each is meant is our reading."""

TRAIN_60: tuple[str, ...] = _names(
    """
    acronym_identification ade_corpus_v2-dosage amazon_polarity blimp-anaphor_gender_agreement blimp-ellipsis_n_bar_1
    blimp-irregular_past_participle_adjectives blimp-wh_questions_object_gap boolq circa codah commonsense_qa cos_e cosmos_qa
    crawl_domain dream eli5-eli5 emotion ethos-directed_vs_generalized ethos-race financial_phrasebank glue-mnli glue-qnli glue-qqp
    glue-sst2 glue-wnli google_wellformed_query hatexplain health_fact hellaswag hotpot_qa imdb lama-google_re liar superglue-copa
    medical_questions_pairs multi_news numer_sense onestop_english paws proto_qa qa_srl quail quarel quoref race-high sciq search_qa
    sms_spam spider superglue-record superglue-rte superglue-wic trec-finegrained tweet_eval-offensive tweet_eval-stance_climate
    web_questions wiki_auto wikisql wino_grande xsum
    """
)
"""The 60 tasks of the multi-task setting."""

UNSEEN_9: tuple[str, ...] = _names(
    """
    ai2_arc blimp-anaphor_number_agreement eli5-asks ethos-gender qasc quartz-no_knowledge rotten_tomatoes superglue-wsc yelp_polarity
    """
)
"""The unseen tasks of the multi-task setting. The published file has a tenth, glue-rte, whose twin superglue-rte is trained on."""
